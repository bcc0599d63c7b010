"""Documentation of the options of stationkeeper.database.arguments.DATABASE_HOST."""


class ModuleDocFragment:
    """For modules that run on the database host, by default through its socket."""

    DOCUMENTATION = r"""
options:
  database:
    description: Name of the database.
    type: str
    required: true
  hosts:
    description: Hosts or socket directories, as libpq takes them.
    type: list
    elements: str
    default: [/var/run/postgresql]
  port:
    description: Port of the server.
    type: int
    default: 5432
  user:
    description: Role to connect as.
    type: str
    default: postgres
  password:
    description: Password, where the connection needs one.
    type: str
  sslmode:
    description: Mode of TLS as libpq understands it.
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  channel_binding:
    description: With V(require) TLS must end at the server that knows the password.
    type: str
    default: prefer
    choices: [disable, prefer, require]
"""

"""Documentation of the option `database`, whose argument is stationkeeper.database.arguments.DATABASE."""


class ModuleDocFragment:
    """A module adds the description: what its user may do."""

    DOCUMENTATION = r"""
options:
  database:
    type: dict
    required: true
    suboptions:
      hosts:
        description: Hosts; libpq takes the one that is the primary.
        type: list
        elements: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 5432
      name:
        description: Name of the database.
        type: str
        required: true
      user:
        description: Database user.
        type: str
        required: true
      password:
        description: Password of that user.
        type: str
      sslmode:
        description: Mode of TLS as libpq understands it.
        type: str
        default: prefer
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      sslrootcert:
        description: File with the certificates of the authorities that O(database.sslmode) verifies with.
        type: path
      channel_binding:
        description: With V(require) TLS must end at the server that knows the password.
        type: str
        default: prefer
        choices: [disable, prefer, require]
"""

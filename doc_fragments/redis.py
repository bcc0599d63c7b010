"""Documentation of the option `redis`, whose argument is stationkeeper.hot_tier.arguments.REDIS."""


class ModuleDocFragment:
    """A module adds the description: what its user may do."""

    DOCUMENTATION = r"""
options:
  redis:
    type: dict
    required: true
    suboptions:
      host:
        description: Host of the server.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 6379
      user:
        description: User of Redis.
        type: str
        required: true
      password:
        description: Password of that user.
        type: str
        required: true
"""

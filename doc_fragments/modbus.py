"""Documentation of the Modbus options; the arguments are those of stationkeeper.modbus.options."""

from textwrap import indent

# What describes a register: options of a write, and suboptions of `registers`, `verify` and `interlocks`.
_REGISTER = r"""
engineering_unit:
  description: Unit of the value, for messages.
  type: str
address:
  description: 0-based address of the register, as in the PDU.
  type: int
reference:
  description: >-
    Instead of address and table, a classic reference such as C("40001") for holding
    register 0.
  type: str
table:
  description: Address space; C(holding) where nothing is given.
  type: str
  choices: [coil, discrete, input, holding]
type:
  description: Type of the raw value; C(uint16), or C(bit) in a table of bits, where nothing is given.
  type: str
  choices: [int16, uint16, int32, uint32, int64, uint64, float32, float64, bit]
word_order:
  description: Which register of several comes first.
  type: str
  choices: [big, little]
  default: big
byte_order:
  description: Which byte of a register comes first.
  type: str
  choices: [big, little]
  default: big
scale:
  description: Engineering value = raw value * scale + offset, in decimal arithmetic.
  type: raw
  default: 1
offset:
  description: Added to the scaled value.
  type: raw
  default: 0
bit:
  description: Number of the bit in its register, 0 to 15, for type C(bit).
  type: int
mask:
  description: Bits of the register that are the value, for type C(uint16).
  type: int
not_implemented:
  description: Raw value by which the device says that it does not have this.
  type: int
"""
_NAME = r"""
name:
  description: What messages call it.
  type: str
"""


class ModuleDocFragment:
    """The parts, each named in extends_documentation_fragment as modbus.<part>.

    Ansible adds missing options to a module and missing keys to an option, but no suboptions to suboptions.
    So an option with registers below it stands here, also where only one module has it.
    """

    CONNECTION = r"""
options:
  host:
    description: >-
      Address of the device or gateway; with O(transport=serial) the path of the line, such as
      C(/dev/ttyUSB0).
    type: str
    required: true
  port:
    description: TCP port.
    type: int
    default: 502
  unit:
    description: Modbus unit, 1 to 247, or 255 for a direct TCP device.
    type: int
    default: 1
  transport:
    description: How frames reach the device.
    type: str
    choices: [tcp, rtu_over_tcp, serial]
    default: tcp
  serial:
    description: The serial line, for the transports other than C(tcp).
    type: dict
    suboptions:
      baudrate:
        description: Bits per second.
        type: int
        default: 19200
      parity:
        description: Parity.
        type: str
        choices: ["N", E, O]
        default: E
      stopbits:
        description: Stop bits.
        type: int
        choices: [1, 2]
        default: 1
      local_echo:
        description: The adapter gives back what it sends.
        type: bool
        default: false
  gateway:
    description: >-
      The gateway's own settings on its serial side. Refused when it tries longer than
      O(response_timeout_s).
    type: dict
    suboptions:
      timeout_s:
        description: Seconds that it waits for its device.
        type: float
        required: true
      retries:
        description: How often it asks again.
        type: int
        default: 0
  connect_timeout_s:
    description: Seconds to wait for a connection.
    type: float
    default: 3
  response_timeout_s:
    description: Seconds to wait for an answer; longer than a gateway waits for its device.
    type: float
    default: 3
  busy_timeout_s:
    description: Seconds for which a request is repeated, with growing pauses, while the device is busy.
    type: float
    default: 5
  lock_timeout_s:
    description: Seconds to wait while another run of this host uses the endpoint.
    type: float
    default: 10
  profile:
    description: Name of the device's profile.
    type: str
  profile_content:
    description: The profile itself, instead of the file of that name.
    type: dict
  profile_path:
    description: Directories searched for profiles before the built-in ones.
    type: list
    elements: path
    default: []
"""

    REGISTER = "options:" + indent(_NAME + _REGISTER, " " * 2)

    REGISTERS = r"""
options:
  registers:
    description: Registers to read that no profile describes.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Key of the result; table and address where nothing is given.
        type: str
""" + indent(_REGISTER, " " * 6)

    VERIFY = r"""
options:
  verify:
    description: >-
      How the write is proven. A profile's set-point is proven by its set-point in force, everything
      else by reading the register back, where nothing is said.
    type: dict
    suboptions:
      mode:
        description: >-
          C(register) reads the written register, C(readback) the one that is given here, C(none)
          proves nothing.
        type: str
        choices: [register, readback, none]
      point:
        description: Point of the profile that shows the effect.
        type: str
      value:
        description: What must be read back, where that is not the written value.
        type: raw
      tolerance:
        description: >-
          Largest difference; half a step of the register (and the profile's tolerance) where
          nothing is given.
        type: raw
      window_s:
        description: >-
          Seconds in which the value must be there; 5 more than the profile's latency where
          nothing is given.
        type: float
      interval_s:
        description: Seconds between reads.
        type: float
        default: 0.5
      samples:
        description: Matching reads in a row that make a proof.
        type: int
        default: 2
      hold_s:
        description: >-
          Seconds for which the value must then stay; at least two of
          O(verify.other_master_cycle_s).
        type: float
        default: 2
      other_master_cycle_s:
        description: Cycle of the slowest other master; 0 where there is none.
        type: float
        default: 1
""" + indent(_NAME + _REGISTER, " " * 6)

    INTERLOCKS = r"""
options:
  interlocks:
    description: >-
      Conditions on values that are read in this run, right before the write. Missing or stale input
      blocks. The profile's local mode always blocks. In a group they count for every entry.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: >-
          C(condition) is any register, or a value from an earlier task. C(latch) is the
          emergency-stop latch on the host where the module runs. C(alarms), C(soe_window),
          C(measured_step) (distance from the measured power) and C(fresh) (the heartbeat moves)
          come from the profile. Latch, alarms and measured_step let writes towards zero pass.
        type: str
        required: true
        choices: [condition, latch, alarms, soe_window, measured_step, fresh]
      point:
        description: Point of the profile, where it is not the usual one of the kind.
        type: str
      value:
        description: For C(condition), a value that an earlier task has read.
        type: raw
      read_at:
        description: Time at which it was read, RFC 3339 with offset.
        type: str
      max_age_s:
        description: How old it may be; for C(fresh), seconds in which the heartbeat must move.
        type: float
        default: 10
      equals:
        description: The value must be this.
        type: raw
      not_equals:
        description: The value must not be this.
        type: raw
      min:
        description: The value must be at least this.
        type: raw
      max:
        description: The value must be at most this.
        type: raw
      max_step:
        description: For C(measured_step), the largest distance.
        type: raw
      path:
        description: For C(latch), the latch's directory.
        type: path
        default: /var/lib/bess_controller/latch
      when:
        description: When a C(condition) counts.
        type: str
        choices: [always, not_towards_zero, discharging, charging]
        default: always
""" + indent(_NAME + _REGISTER, " " * 6)

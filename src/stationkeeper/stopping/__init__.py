"""The emergency stop of a whole fleet from the control node, with and without Ansible."""

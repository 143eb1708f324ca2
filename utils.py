"""What both programs need and no other room owns: user errors, seeds, the device, text files.

torch is imported where it is used, so that the command line answers before torch is loaded.
"""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, and the remedy."""

"""Other activations in any network: in place of its modules, and of its calls of functions.

`replace` is the front door. `kinds` says what counts as which activation, `wanted` what the caller
asks for; `slots` and `calls` find modules and calls, `sites` puts both together; `rewriting` makes
modules of calls; `report` is the result.
"""

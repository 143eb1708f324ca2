"""Other activations in any network: in place of its modules, and of its calls of functions.

`replace` is the front door. `kinds` says what counts as which activation, `wanted` what the caller
asks for. `slots` finds modules; `calls` sees functions called while `observing` runs the network;
`sites` puts both together. `orders` and `rewriting` make modules of calls, `placing` tries the
places out (with `stand_in`) and fills them, by `changes` that can be taken back. `report` is the
result.
"""

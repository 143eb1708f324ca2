"""Replace the activations of any network: its modules, and its calls of functions.

`replace_activations` first runs the network on example_input, to see which activations it calls as
functions. Then it puts stand-ins, which compute what was there before, in all the new places, and
runs the network again. Only if that does what it did, the new modules go in. Otherwise all changes
are undone, and an error says what differed.

These nouns have one meaning in the whole package:

    kind          which activation something is, as a name: "ReLU"
    target        what the caller wants in a kind's place: a name, a class or a function
    factory       a function that makes a new module, derived from a target
    request       all factories that the caller asked for, by kind and by class of module
    slot          a place that holds a module: a child, an attribute, an item of a list, dict, tuple
    call          one call of an activation function in one run of the network
    observation   what one run of the network showed: its output, calls, and how often modules ran
    mode          of a network or module: training (True) or evaluation (False)
    site          one activation of the network: a slot that holds one (module site), or all calls
                  from one place in the code (call site)
    problem       why a site cannot be replaced
    owner         the module that a slot belongs to; the innermost module whose forward makes a call
    holder        the module that registers the new module of a call site: mostly its owner
    replacement   one new module with the sites that it serves; mostly a single one
    stand-in      computes what a replacement's sites computed before; takes its place on trial
    plan, entry   which new module each call of an owner's forward goes to; an entry is one call's
    changes       what was done to the network, and how to undo it
    bound         a clamp, or a rectifier in operations, that keeps numbers in their range and is no
                  activation
    note          what could not be looked at, for the report

The files, in reading order:

    replace.py    `replace_activations`, its report, and what it refuses
    kinds.py      which activation a module or function is; the caller's request
    sites.py      the slots of a network, and the sites of its activations
    written.py    recognises activations that are written out in operations, by their values
    calls.py      records the calls while the network runs
    observing.py  runs the network, and restores what a run changes
    rewriting.py  plans which call goes to which module, and rewrites forwards to do that
    gradual.py    mixes what was there before into the new modules, less and less
    swap.py       makes the new modules, tries their places out, puts them in
"""

"""The list of faults, bad inputs and loads that the suite injects: what is done, in a line; targets stand at the tests.

F: faults from outside.  B: bad inputs.  L: loads.  A test belongs to a line by `@pytest.mark.fault("F1", "target")`.
Numbers that are absent belong to what this project does not have.
"""

FAULTS = {
    "F1": "20 random SIGKILLs over one training run, one process",
    "F2": "SIGKILL of a random process at a random step, two processes, 10 times",
    "F3": "SIGKILL at 20 offsets of 0 to 300 ms while a checkpoint is saved",
    "F4": "disk full (a limit on file sizes) while saving, tokenizing, reporting, writing video",
    "F5": "SIGTERM, SIGINT, SIGHUP in a step, validation, compilation, save, tokenizing, evaluation, rollout",
    "F6": "one flipped bit, 200 times, over checkpoint, weights, token shard, states, manifest",
    "F7": "each file cut, extended, zeroed or deleted, at 100 random points",
    "F8": "a file cut short under a process that reads it (SIGBUS)", "F9": "SIGKILL of a worker process that decodes or encodes",
    "F10": "SIGSTOP of one of two training processes", "F11": "a checkpoint carried from 2 processes to 1, 3 and 2",
    "F12": "one of two launchers killed with its workers", "F13": "two runs in one folder; the lock of a dead process",
    "F14": "20 SIGKILLs of a tokenizer with two workers", "F15": "loss NaN or infinite, exploding gradient, constant loss",
    "F16": "clock set back, file times shuffled, foreign files in the run folder",
    "F17": "every connection of a socket forbidden",
    "F18": "read-only home and package, no HOME, odd locale, a path with spaces and non-ASCII letters",
    "F19": "the page's server: the model fails, a step takes long, the server is killed",
    "F20": "the page's browsers: tabs closed, many reloads, two tabs, a key held while the window loses the focus",
    "B1": "videos: empty, cut, flipped, odd sizes, rates, formats, more or fewer frames than states",
    "B2": "bombs: small files that unpack to gigabytes", "B3": "robot states: not finite, wrong width or type, constant",
    "B4": "tokens: outside the codebook, negative, wrong type, grid or count",
    "B5": "clips across segments, training and validation that overlap",
    "B6": "weights: missing, extra, other shape or dtype, NaN, another model's, 100 000 entries",
    "B7": "pickles and TorchScript files that run code, loop or allocate",
    "B8": "paths that leave the folder: .., absolute, links, NUL, too long",
    "B9": "configuration: unknown keys, wrong types and values",
    "B10": "any file of ours damaged in any way: bytes, structure, numbers, headers, members, links, too few file descriptors",
    "B11": "code: what keeps a promise is taken out of a copy of the package, one promise at a time",
    "B12": "submissions: wrong count, shape, type, NaN, double ids",
    "B13": "the page's server: wrong host, origin, token, path; what is no message, too long, too often; who never reads",
    "L1": "one who drives, 10 minutes", "L2": "one who drives beside four whose dreams are paused",
    "L3": "browsers that come and go, 20 a second for a minute",
    "L4": "an index of 306 000 clips: open, shuffle, first batch", "L5": "10 000 training steps of a tiny model",
    "L6": "tokenizing 512 x 512 H.264, a minute and a quarter of an hour", "L7": "a checkpoint of 400 MB with its manifest",
    "L8": "--help of the command and of every verb", "L9": "an evaluation of 1000 rollouts, killed and run again"
}

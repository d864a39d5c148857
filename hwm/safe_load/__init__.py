"""The only place that opens files from elsewhere.  Nothing in a file is run, whatever is wrong with it is one
ValueError of one line that names it, and sizes are compared with caps before anything is unpacked.

text      JSON and TOML, without torch                    paths     names that a file gives stay inside its folder
weights   tensors by name, whatever the file              arrays    .npy and PNG of one exact shape and type
pickles   what they describe, without running them        torch_save    both formats of files of torch.save
archives  members of zips, capped                         video     capped before a frame is decoded
program   TorchScript itself, for those who trust it, in a process of its own that can do little else

Two kinds of names are told apart.  A path that the user gives, and the files of a folder that has a fixed layout, may be
symbolic links to anywhere: shards often lie on another disk.  A name that the content of a file gives (an index of
weights, a template, a member) must not leave the folder of that file, not by a link either.

`tests/safe_load/test_lint.py` holds the rest of the package to this: what can open or run such files is called here only.
"""

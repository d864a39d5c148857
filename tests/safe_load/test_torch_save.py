"""Files of torch.save are read without PyTorch's unpickler, give the same tensors, and can ask for nothing that is not there."""

import io
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch
from hostile import deflated, zip_with
from refusing import refused
from torch import nn

from hwm.safe_load import pickles
from hwm.safe_load.program import open_programs
from hwm.safe_load.weights import load_state_dict

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool, torch.complex64, torch.complex128]  # fmt: skip
CPU = {"device": "cpu", "dtype": torch.float32}
NEWER = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
"""In the legacy format PyTorch writes these but cannot read them."""


def with_attribute(tensor):
    tensor.tag = "mine"
    return tensor


def states():
    """State dicts by what is special about them."""
    whole, tied = torch.arange(24.0).view(4, 6), nn.Linear(3, 3)
    yield "dtypes", {str(d): torch.arange(6).view(2, 3).to(d) for d in DTYPES}
    yield "newer dtypes", {str(d): torch.arange(6).view(2, 3).to(d)[:, 1:] for d in NEWER}
    yield "views", {"whole": whole, "part": whole[1:3, ::2], "turned": whole.t(), "row": whole[-1], "one": whole[2, 3]}
    yield "empty", {"none": torch.zeros(0), "narrow": torch.zeros(3, 0, 5), "part": whole[4:], "scalar": torch.tensor(2.5)}
    yield "tied", {"a.weight": tied.weight, "b.weight": tied.weight, "again": tied.weight.data.view(9)}
    yield "parameters", dict(tied.named_parameters()) | {"tagged": with_attribute(nn.Parameter(torch.ones(2)))}
    yield "module", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    yield "attributes", {"tagged": with_attribute(torch.ones(3))}
    yield "names", {"ä.世界": torch.ones(1), "": torch.ones(2), "x" * 300: torch.ones(3)}
    yield "many", {f"layer.{i}.weight": torch.full((2,), float(i)) for i in range(1000)}
    optimizer = torch.optim.AdamW(tied.parameters())
    tied(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    about = {"optimizer": optimizer.state_dict(), "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.half,
             "bytes": b"abc", "count": Counter("aab"), "set": {1, 2}, "list": [1, (2.5, None, True, -3, 2**70)]}  # fmt: skip
    yield "checkpoint", about | {"epoch": 3, "state_dict": OrderedDict(tied.state_dict())}


STATES = dict(states())


def saved(value, **options):
    content = io.BytesIO()
    torch.save(value, content, **options)
    return content.getvalue()


@pytest.mark.parametrize(("kind", "legacy"), [(k, old) for k in STATES for old in (False, True) if not (old and "newer" in k)])
def test_the_tensors_are_those_of_pytorch_s_own_reader(tmp_path, kind, legacy):
    path = tmp_path / ("w.pt" if legacy else "w.pth")
    path.write_bytes(saved(STATES[kind], _use_new_zipfile_serialization=not legacy))
    found, expected = load_state_dict(path), torch.load(path, weights_only=True)
    expected = expected.get("state_dict", expected)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert type(found[key]) is torch.Tensor and not found[key].requires_grad
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape and found[key].stride() == tensor.stride()
        bits = (found[key].contiguous(), tensor.detach().contiguous())
        assert bits[0].view(torch.uint8).equal(bits[1].view(torch.uint8)) if tensor.ndim else bits[0].equal(bits[1]), key
    places = [{key: t.untyped_storage().data_ptr() for key, t in state.items() if t.numel()} for state in (found, expected)]
    assert all((places[0][a] == places[0][b]) == (places[1][a] == places[1][b]) for a in places[0] for b in list(places[0])[:5])


def changed(content, old, new):
    assert content.count(old) == 1, (old, content.count(old))
    return content.replace(old, new)


def rewritten(content, edit):
    """A zip of torch.save whose members went through `edit(name, bytes)`; None leaves one out."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            if (member := edit(name, old.read(name))) is not None:
                archive.writestr(name, member)
    return new.getvalue()


def of_pickle(old, new):
    return lambda name, data: changed(data, old, new) if name.endswith("data.pkl") else data


def replaced(part, new):
    return lambda name, data: new if name.endswith(part) else data


WHOLE = {"a": torch.arange(6.0).view(2, 3)}
SIZES = b"K\x00K\x02K\x03\x86q\x08K\x03K\x01\x86"
"""Offset, shape and strides of that tensor in its pickle."""
FORGED = {
    "storage longer": (of_pickle(b"cpuq\x06K\x06", b"cpuq\x06K\x07"), "data/0 has 24 bytes, 28 are asked for"),
    "storage of terabytes": (of_pickle(b"cpuq\x06K\x06", b"cpuq\x05\x8a\x06\0\0\0\0\0\x10"), "has 24 bytes, 70368744177664 are"),
    "storage cut": (replaced("data/0", bytes(20)), "has 20 bytes, 24 are asked for"),
    "storage missing": (replaced("data/0", None), "data/0 is missing, 24 are asked for"),
    "another key": (of_pickle(b"X\x01\0\0\x000", b"X\x01\0\0\x007"), "data/7 is missing"),
    "shape": (of_pickle(SIZES, SIZES.replace(b"K\x02K\x03\x86q", b"K\x09K\x03\x86q")), "asks for more than the 6 numbers"),
    "strides of nothing": (of_pickle(SIZES, SIZES.replace(b"K\x02K\x03\x86q\x08K\x03K\x01", b"K\x09K\x09\x86q\x08K\0K\0")),
                           "asks for more than the 6 numbers"),
    "stride": (of_pickle(SIZES, SIZES.replace(b"\x08K\x03K", b"\x08K\x04K")), "asks for more than the 6 numbers"),
    "offset": (of_pickle(SIZES, b"K\x01" + SIZES[2:]), "asks for more than the 6 numbers"),
    "negative": (of_pickle(SIZES, SIZES.replace(b"\x08K\x03", b"\x08J\xfd\xff\xff\xff")), "of impossible sizes"),
    "byte order": (replaced("byteorder", b"big"), "another byte order"),
    "a bit of the numbers": (replaced("nothing", b""), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_tensor_lies_inside_what_the_file_holds(tmp_path, kind):
    edit, message = FORGED[kind]
    path, content = tmp_path / "w.pth", rewritten(saved(WHOLE), edit)
    if message is None:
        place = content.index(WHOLE["a"].numpy().tobytes())
        content, message = content[: place + 3] + bytes([content[place + 3] ^ 1]) + content[place + 4 :], "Bad CRC-32"
    path.write_bytes(content)
    refused(rf"w\.pth.*{message}", load_state_dict, path)


@pytest.mark.parametrize("kind", ["count", "cut", "twice"])
def test_a_legacy_file_holds_what_it_asks_for(tmp_path, kind):
    path, content = tmp_path / "w.pth", saved(WHOLE, _use_new_zipfile_serialization=False)
    place = content.index(struct.pack("<Q", 6) + WHOLE["a"].numpy().tobytes())
    keys = content[: place].rindex(b"]")
    forged = {
        "count": content[:place] + struct.pack("<Q", 7) + content[place + 8 :],
        "cut": content[:-1],
        "twice": content[:keys] + changed(content[keys:place], b"a.", b"ah\x01a.") + content[place:],
    }
    path.write_bytes(forged[kind])
    refused(r"w\.pth: not a file of tensors.*(storage|cut off)", load_state_dict, path)


def program(body):
    return b"\x80\x02" + body + b"."


def towers(depth, top):
    """Tuples of twice the tuple before, so that the last holds 2^depth; then `top`."""
    return b"}" + b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(depth)) + top


HOSTILE = {
    "tuples as a key": (towers(200, b"K\x01s"), "a key that is a tuple"),
    "tuples as a value": (b"}X\x01\0\0\0a" + towers(200, b"0")[1:-1] + b"s", "expected dense tensors by name, found tuple"),
    "a codec": (b"c_codecs\nencode\nX\x03\0\0\0" + "\u4e00".encode() + b"X\x08\0\0\0punycode\x86R", "found _codecs.encode"),
    "gigabytes": (b"]" + b"cbuiltins\nbytearray\nJ\0\0\0\x7f\x85Ra" * 8, "found list"),
    "a set of keys": (b"cbuiltins\nset\n](" + b"K\x01" * 10 + b"e\x85R", "found builtins.set"),
    "a number of a key": (b"}\x8a\xff" + b"\x7f" * 255 + b"K\x01s", "a key that is a int"),
    "a number as its own key": (b"}K\x01K\x02s", "under '1'"),
    "another word": (b"N0", "instruction 48"),
    "more steps": (b"(" * 700_000, "more than 600000 instructions"),
    "itself": (b"]q\0h\0a", "found list"),
    "a tuple of nothing": (b"\x87", "more than there is"),
    "no mark": (b"t", "pop from empty list"),
    "no stack": (b"", "pop from empty list"),
    "no memory of it": (b"h\x05", "no pickle of tensors"),
    "text that is cut": (b"X\xff\xff\xff\xffabc", "it is cut off"),
    "a name without end": (b"c" + b"a" * 1000, "a name that does not end"),
    "attributes of a tensor": (b"K\x01}b", "attributes for a int"),
    "a call of a number": (b"K\x01)R", "a call of a int"),
    "a class called": (b"cos\nsystem\nX\x02\0\0\0ls\x85R", "refused: it asks for the Python object os.system"),
    "a subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\ncos\nsystem\nctorch\nTensor\n)N\x87R", "Python object os.system"),
    "rebuilt in itself": (b"ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0h\0)NtR", "found torch._tensor"),
    "a storage of text": (b"X\x07\0\0\0storageQ", "a storage of a kind"),
    "frames of another protocol": (b"\x95" + bytes(8), "instruction 149"),
}


@pytest.mark.parametrize("format", ["zip", "legacy"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pickle_can_only_describe(tmp_path, kind, format):
    body, message = HOSTILE[kind]
    path = tmp_path / "w.pt"
    if format == "zip":
        path.write_bytes(rewritten(saved(WHOLE), replaced("data.pkl", program(body))))
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + program(body) + pickle.dumps([], 2))
    refused(rf"w\.pt.*({message})", load_state_dict, path)


def test_no_name_that_is_understood_is_looked_up():
    assert all(not hasattr(pickles, word) for word in ("importlib", "pickle", "builtins"))
    assert {"torch.load", "os.system", "builtins.eval", "builtins.getattr"}.isdisjoint(pickles.NAMES)


def test_the_pickles_of_a_program_are_looked_at_before_it_is_opened(tmp_path):
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.pair, self.layer = {"a": [1, 2**40], "b": [-3]}, (1, "x", 2.5, True, None), nn.Conv3d(1, 2, 3)

        def forward(self, x):
            return x + self.table["a"][0] + self.pair[2]

    path = tmp_path / "encoder.jit"
    torch.jit.script(Scripted()).save(path)
    sound = path.read_bytes()
    (run,) = open_programs([path], trust=True, **CPU)
    assert run(torch.zeros(2)).equal(torch.full((2,), 3.5))
    for edit, message in [
        (replaced("data.pkl", program(towers(200, b"K\x01s"))), "data.pkl holds no pickle of tensors: a key that is a tuple"),
        (replaced("constants.pkl", program(b"(" * 700_000)), "constants.pkl holds no pickle of tensors: more than 600000 inst"),
    ]:
        path.write_bytes(rewritten(sound, edit))
        refused(rf"encoder\.jit: cannot be opened as TorchScript: .*{message}", open_programs, [path], trust=True, **CPU)
    path.write_bytes(zip_with({}, lie=("m/data.pkl", deflated(2**28), 2**28)))
    refused(r"encoder\.jit: .* TorchScript: unpacks to 268435456 bytes", open_programs, [path], trust=True, **CPU)

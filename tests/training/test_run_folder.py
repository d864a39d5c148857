"""What cannot be used as an output folder or a device is refused in one line."""

from refusing import refused
from tiny_training import run


def test_a_folder_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("cannot be used as an output folder", run, tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("trian = 3\n")
    refused(r"config.toml: unknown key 'trian'; did you mean 'train'", run, tmp_path / "run")
    run(tmp_path / "other", "train.steps=1")
    text = (tmp_path / "other" / "config.toml").read_text()
    (tmp_path / "other" / "config.toml").unlink()
    assert run(tmp_path / "other", "train.steps=1").step == 1  # its checkpoint knows it
    assert (tmp_path / "other" / "config.toml").read_text() == text


def test_a_device_that_is_not_there(tmp_path):
    refused(r"device tpu9 cannot be used .*take auto or cpu", run, tmp_path, "train.device=tpu9")

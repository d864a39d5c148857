"""Names of the hub: fetched from a hub of our own on this machine, pinned to a commit, taken from the cache without a network."""

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from families import FAMILIES, run_of
from refusing import refused

from hwm.cli import main
from hwm.config import RunConfig
from hwm.publish.export import export
from hwm.publish.hub import contents, fetch, is_hub_name, pinned
from hwm.publish.trained import fingerprint, located, open_trained, start_of
from hwm.runs import load_run

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT, BRANCH = "ab" * 20, "me/model@main"
FIXED = f"me/model@{COMMIT}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    published, _ = export(run_of(RunConfig(recipe="x", model=FAMILIES["st"]), place / "run"), place / "model")
    (published / "evil.py").write_text("raise SystemExit")
    return published


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the library, and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def server(folder, cache, monkeypatch):
    """A hub that knows one repository; what was asked of it."""
    asked = []
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, body=True):
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path}")
            name = path.partition(f"/me/model/resolve/{COMMIT}/")[2]
            if path.startswith("/api/models/me/model/tree/"):
                tree = [{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in files.items()]
                content, code = json.dumps(tree).encode(), 200
            elif path.startswith("/api/models/me/model"):
                about = {"id": "me/model", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
                content, code = json.dumps(about).encode(), 200
            else:
                content, code = (files[name], 200) if name in files else (b"{}", 404)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{_etag(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        do_GET = answer

        def do_HEAD(self):
            self.answer(body=False)

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        template = f"{here}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
        server.shutdown()


def _etag(content):
    return hashlib.sha1(content).hexdigest()


def test_only_a_name_with_a_revision_asks_for_the_hub(tmp_path, monkeypatch):
    assert is_hub_name(BRANCH) and is_hub_name(FIXED)
    for name in ("runs/first", "me/model", "me/model@", "@main", "a/b/c@main", "../x@main", "me/model@../x", "fsq-8x8x8", ""):
        assert not is_hub_name(name), name
    monkeypatch.chdir(tmp_path)
    Path(BRANCH).mkdir(parents=True)
    assert located(BRANCH) == Path(BRANCH)  # a folder that is here is meant


def test_what_is_fetched_is_the_folder_and_stays_pinned(server, folder, cache, monkeypatch, capsys):
    wanted = fingerprint(open_trained(folder).tensors())
    assert fingerprint(open_trained(BRANCH).tensors()) == wanted and load_run(BRANCH).step == 7
    place = located(BRANCH)
    assert place.name == COMMIT and not (place / "evil.py").exists() and place.is_relative_to(cache)
    assert pinned(place, BRANCH) == FIXED and start_of(BRANCH)["name"] == FIXED
    before = len(server)
    assert located(FIXED) == place and len(server) == before  # a commit is asked for once
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located(BRANCH) == place
    capsys.readouterr()
    assert main(["export", BRANCH, str(cache / "copy")]) == 0
    assert f"{BRANCH}: {FIXED}\n" in capsys.readouterr().out and load_run(cache / "copy").step == 7
    weights = place / "model.safetensors"
    os.truncate(weights.resolve(), 100)
    refused("model.safetensors: is not as it was written", load_run, FIXED)
    weights.unlink()
    refused("no whole published folder could be fetched", load_run, FIXED)


def test_without_a_network_it_is_one_line(cache, capsys):
    for name in (BRANCH, FIXED):
        assert name in refused("no whole published folder could be fetched.*give a folder that lies here", fetch, name)
    assert main(["predict", BRANCH, "--data", "d"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_would_be_sent_is_said_and_nothing_is_sent(folder, tmp_path, capsys):
    assert main(["push", str(folder), "me/model"]) == 0
    told = capsys.readouterr().out
    assert "model.safetensors" in told and "nothing was sent" in told and "evil.py" not in told
    assert {name for name, _ in contents(folder)} == {"README.md", "checksums.json", "config.json", "model.safetensors"}
    for name in ("model", "me/model@main", "a/b/c"):
        assert main(["push", str(folder), name]) == 2
        assert "write it as user/name" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "me/model"]) == 2


def test_sending_needs_a_hub(folder, cache, capsys):
    assert main(["push", str(folder), "me/model", "--send"]) == 2
    assert "me/model: cannot be sent" in capsys.readouterr().err

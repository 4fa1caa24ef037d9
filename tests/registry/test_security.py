"""Malicious inputs: none runs code, none hangs, each ends in one clear message."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from typer.testing import CliRunner

from tests.attempts import shipped
from tests.clips import write_experiment
from tests.command import run
from tests.saved_models import make_kept, save_model, save_network
from vidclf import config
from vidclf.cli.app import app
from vidclf.cli.models import is_loopback
from vidclf.data import cache
from vidclf.data.manifest import Manifest, read_manifest
from vidclf.exceptions import InputError
from vidclf.models import load_model
from vidclf.models.checkpoint import FitState
from vidclf.models.own_networks import build_network
from vidclf.models.saved import CARD
from vidclf.models.training import BestSoFar
from vidclf.models.video_network import VideoNetwork
from vidclf.models.weights import load_backbone
from vidclf.runs.store import Store
from vidclf.search.definition.study_file import load_study
from vidclf.tracking import ui
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.model_package import deliver_model

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("one_thread")]

MARKER = "code-was-run"


class Payload:
    """Unpickled it makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["VIDCLF_TEST_MARKER"],)


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a payload makes; there is none at the end."""
    path = tmp_path / MARKER
    monkeypatch.setenv("VIDCLF_TEST_MARKER", str(path))
    yield path
    assert not path.exists(), "code from a file was run"


def test_the_payload_works_where_pickle_is_loaded(marker: Path) -> None:
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload()))
    assert marker.is_dir()
    marker.rmdir()


@pytest.fixture
def network(tmp_path: Path, squares: Manifest) -> Path:
    return save_network(tmp_path, "volume3d", squares)


@pytest.fixture
def estimator(tmp_path: Path) -> Path:
    save_model(tmp_path / "estimator")
    return tmp_path / "estimator"


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def _torch_pickled(path: Path) -> None:
    torch.save({"weights": Payload()}, path)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _long_header(path: Path) -> None:
    """A safetensors header that claims to be longer than any memory."""
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other_network(path: Path) -> None:
    arguments = json.loads(path.read_text())
    path.write_text(json.dumps({**arguments, "network": "../../../etc/passwd"}))


def _odd_arguments(path: Path) -> None:
    path.write_text(json.dumps({"classes": ["os.system"], "__class__": "subprocess.Popen"}))


def _deep_json(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.parametrize(
    ("name", "attack", "message"),
    [
        ("weights.safetensors", _pickled, "is damaged"),
        ("weights.safetensors", _torch_pickled, "is damaged"),
        ("weights.safetensors", _truncated, "is damaged"),
        ("weights.safetensors", _long_header, "is damaged"),
        ("weights.safetensors", _link, "plain files"),
        ("weights.safetensors", _pipe, "plain files"),
        ("network.json", _other_network, "is damaged"),
        ("network.json", _odd_arguments, "is damaged"),
        ("network.json", _deep_json, "is damaged"),
        (CARD, _pickled, "not a saved model"),
        (CARD, _deep_json, "not a saved model"),
        (CARD, _pipe, "plain files"),
    ],
)
def test_a_network_with_a_malicious_file_is_refused(
    network: Path, name: str, attack: Callable[[Path], None], message: str
) -> None:
    load_model(network)
    attack(network / name)
    with pytest.raises(InputError, match=message) as caught:
        load_model(network)
    assert len(str(caught.value)) < 1000
    result = CliRunner().invoke(app, ["predict", str(network), "clip.avi", "--json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"kind": ["svm"]},
        {"kind": "../../svm"},
        {"classes": 7},
        {"classes": [{"__reduce__": "os.system"}]},
        {"grid": "64; import os"},
        {"trained_on": [["only one"]]},
        {"format": {"a": 1}},
    ],
)
def test_a_card_of_odd_types_is_refused(estimator: Path, change: dict[str, object]) -> None:
    card = json.loads((estimator / CARD).read_text())
    (estimator / CARD).write_text(json.dumps({**card, **change}))
    with pytest.raises(InputError):
        load_model(estimator)
    run("bench", estimator, expect=2)


def _foreign_type(path: Path) -> None:
    skops.io.dump(Payload(), path)


def _foreign_function(path: Path) -> None:
    """The archive of an estimator whose state holds a function of the system's."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(contents["schema.json"])
    schema["content"]["content"]["attack"] = {
        **{"__class__": "mkdir", "__module__": "os", "__loader__": "FunctionNode", "__id__": 99},
        "content": "mkdir",
    }
    contents["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def _bomb(path: Path) -> None:
    """200 MB of zeros in 200 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", bytes(200_000_000))


def _not_an_estimator(path: Path) -> None:
    skops.io.dump({"predict": "jump"}, path)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (_pickled, "not a readable archive"),
        (_truncated, "not a readable archive"),
        (_foreign_type, "could run foreign code"),
        (_foreign_function, "could run foreign code"),
        (_bomb, "would unpack to 200,000,000"),
        (_not_an_estimator, "holds a dict, not a classifier"),
        (_link, "plain files"),
    ],
)
def test_an_estimator_with_a_malicious_archive_is_refused(
    estimator: Path, attack: Callable[[Path], None], message: str
) -> None:
    load_model(estimator)
    attack(estimator / "estimator.skops")
    with pytest.raises(InputError, match=message):
        load_model(estimator)


def test_a_link_in_a_models_folder_is_not_published(tmp_path: Path, store: Store) -> None:
    """Packaging copies what links point to: a private key, say, into the registry."""
    trial = make_kept(store)
    (tmp_path / "private").write_text("key")
    (trial.model / "notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(InputError, match="plain files"):
        deliver_model(Deliverer(store), trial)


def _weights_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "attack", [_pickled, _torch_pickled, pytest.param(_weights_bomb, marks=pytest.mark.slow)]
)
def test_given_weights_that_hold_code_are_refused(
    tmp_path: Path, suffix: str, attack: Callable[[Path], None]
) -> None:
    path = tmp_path / f"weights{suffix}"
    attack(path)
    with pytest.raises(InputError):
        load_backbone("tiny2d", str(path))


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(build_network("tiny2d").state_dict(), path)
    load_backbone("tiny2d", str(path))
    _truncated(path)
    with pytest.raises(InputError, match=r"model\.weights: .*not a"):
        load_backbone("tiny2d", str(path))


@pytest.mark.parametrize("attack", [_pickled, _torch_pickled, lambda path: path.write_bytes(b"\x80\x04")])
def test_a_malicious_checkpoint_is_as_good_as_none(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    net = VideoNetwork("tiny2d", weights="none", classes=2, dropout=0, frozen_stages=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(enabled=False)
    progress = FitState(net, optimizer, scaler, BestSoFar("val/loss"), BestSoFar("val/loss"))
    attack(tmp_path / "epoch.pt")
    progress.restore(tmp_path, "identity")
    assert progress.history == []


def _object_array(file: io.BufferedIOBase) -> None:
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)


def _archive_of_arrays(file: io.BufferedIOBase) -> None:
    np.savez(file, np.array([Payload()], dtype=object))


def _huge_array(file: io.BufferedIOBase) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize("mode", ["r", "c", None])
@pytest.mark.parametrize("write", [_object_array, _archive_of_arrays, _huge_array])
def test_a_malicious_cache_entry_is_as_good_as_none(
    tmp_path: Path, write: Callable[[io.BufferedIOBase], None], mode: object
) -> None:
    entry = cache.folder() / "activations" / "00" / "entry.npy"
    entry.parent.mkdir(parents=True)
    with entry.open("wb") as file:
        write(file)
    assert cache.load(entry, mode) is None  # type: ignore[arg-type]
    assert not entry.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a" + ".a" * 100_000 + " = 1",
        "[" + ".".join("abcdefgh" * 8) + "]\nx = 1",
        "# " + "x" * 2_000_000,
        'a = "' + "\x00" + '"',
        "\ud800",
    ],
    ids=["lists", "keys", "sections", "size", "nul", "no text"],
)
def test_an_absurd_file_of_settings_is_bad_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "experiment.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"experiment\.toml: "):
        config.read_toml(path)
    for command in ("train", "tune"):
        run(command, path, "--store", tmp_path / "s", expect=2)


def test_a_file_of_settings_as_deep_as_any_of_ours_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a.b.c.d.e.f.g.h = [[[[1]]]]")
    assert config.read_toml(path)["a"]["b"]["c"]["d"]["e"]["f"]["g"]["h"] == [[[[1]]]]


@pytest.mark.parametrize("name", ["..", ".", "../../x", "a/b", "x" * 300, "nul\x00"])
def test_a_name_that_leads_out_of_the_store_is_bad_input(
    tmp_path: Path, squares: Manifest, name: str
) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="cannot be a name"):
        store.attempt(name, "study")
    with pytest.raises(InputError, match="cannot be a name"):
        store.attempt("study", name)
    write_experiment(tmp_path / "svm.toml", "svm", squares.path)
    (tmp_path / "study.toml").write_text(
        f'name = {json.dumps(name)}\nbase = "svm.toml"\n[objective]\nmetric = "val/macro_f1"\n'
        'direction = "maximize"\n[budget]\ntrials = 1\n[space]\n"model.C" = { low = 0.1, high = 1.0 }\n'
    )
    with pytest.raises(InputError):
        load_study(tmp_path / "study.toml", {}, store)
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize("name", ["../../x", "a/b", "a:b", ""])
@pytest.mark.slow
def test_a_registered_name_that_is_a_path_is_bad_input(tmp_path: Path, store: Store, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if "a store" not in path.parts}
    with pytest.raises(InputError):
        shipped(store, make_kept(store), name)
    assert {path for path in tmp_path.rglob("*") if "a store" not in path.parts} == before


@pytest.mark.parametrize(
    "content",
    [
        b"clip_path,label,group,split\n" + b"a\x00b.avi,x\x00,g,train\n",
        b"clip_path,label,group,split\n/dev/zero,x,g,train\n../../../../etc/passwd,y,g,train\n",
        b"\x00" * 100_000,
        b"clip_path,label,group,split\n" + b'"' * 1_000_001,
        b"clip_path" + b",c" * 200_000 + b"\n",
    ],
    ids=["nul", "devices", "zeros", "quotes", "columns"],
)
def test_an_absurd_manifest_is_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert len(str(caught.value)) < 5000


def test_a_manifest_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    with path.open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(InputError, match="no list of clips"):
        read_manifest(path)


@pytest.mark.slow
def test_a_class_that_is_a_path_stays_in_the_store(tmp_path: Path, store: Store, squares: Manifest) -> None:
    shutil.copytree(squares.path.parent, tmp_path / "clips" / "inner")
    manifest = tmp_path / "clips" / "inner" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",down,", ",../../../down,"))
    file = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    arguments = ["train", str(file), "--store", str(store.folder), "--json"]
    run(*arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"a store", "clips", "svm.toml"}
    assert not list((tmp_path / "clips").glob("*down*"))


def test_a_server_is_near_on_loopback_addresses_only() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_the_ui_warns_where_others_can_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, warned: bool
) -> None:
    served = []
    monkeypatch.setattr(
        ui, "serve_ui", lambda store, port, announce, study, host: served.append((port, host))
    )
    arguments = ["ui", "--port", "5055", "--host", host, "--store", str(tmp_path / "store")]
    result = run(*arguments)
    assert served == [(5055, host)]
    assert ("warning: on 0.0.0.0 everyone" in result.stderr) == warned

"""Where the key-encryption key comes from."""

import sys
import time
from pathlib import Path

import pytest
import trio

from registry import key_source
from registry.ca.sealing import KeyFile, Passphrase
from registry.errors import ConfigError
from registry.key_source import (
    FromCommand,
    FromCredential,
    FromFile,
    FromPassphrase,
    choose,
    make_kek,
    read_kek,
)

SECRET = "k" * 64


def python(code: str) -> FromCommand:
    return FromCommand(f'{sys.executable} -c "{code}"')


def chosen(**said: object) -> key_source.KeySource:
    nothing = {"file": None, "passphrase": None, "credential": None, "command": None}
    return choose(default=Path("/state/kek"), **{**nothing, **said})  # type: ignore[arg-type]


class TestChoice:
    def test_one(self) -> None:
        """Each word names its source; without any it is the state directory's file."""
        assert chosen() == FromFile(Path("/state/kek"))
        assert chosen(file=Path("/k")) == FromFile(Path("/k"))
        assert chosen(passphrase=Path("/p")) == FromPassphrase(Path("/p"))
        assert chosen(credential="kek") == FromCredential("kek")
        assert chosen(command="vault read") == FromCommand("vault read")

    def test_two(self) -> None:
        """Two sources would leave open which one seals."""
        with pytest.raises(ConfigError, match="one source"):
            chosen(credential="kek", command="vault read")


class TestFile:
    async def test_made(self, tmp_path: Path) -> None:
        """Founding makes the file where none is, and reads it from then on."""
        source = FromFile(tmp_path / "kek")
        made = await make_kek(source)
        assert await read_kek(source) == made

    async def test_missing(self, tmp_path: Path) -> None:
        """Serving does not make one: it would open nothing."""
        with pytest.raises(ConfigError, match="cannot be read"):
            await read_kek(FromFile(tmp_path / "kek"))

    async def test_passphrase(self, tmp_path: Path) -> None:
        """A passphrase's file is read."""
        path = tmp_path / "passphrase"
        path.write_text("open sesame\n")
        path.chmod(0o600)
        assert await make_kek(FromPassphrase(path)) == Passphrase("open sesame")


class TestCredential:
    async def test_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A credential is read from where systemd puts it, group-readable as systemd's access lists look."""
        (tmp_path / "kek").write_text(SECRET)
        (tmp_path / "kek").chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert await read_kek(FromCredential("kek")) == KeyFile(SECRET.encode())

    async def test_no_systemd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outside systemd the unit's line to write is told."""
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        with pytest.raises(ConfigError, match="LoadCredential=kek:"):
            await read_kek(FromCredential("kek"))

    @pytest.mark.parametrize("name", ["../kek", "", "..", "absent"])
    async def test_no_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A name that leads elsewhere, or nowhere, is refused."""
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        with pytest.raises(ConfigError, match="--ca-key-credential"):
            await read_kek(FromCredential(name))


class TestCommand:
    async def test_output(self) -> None:
        """What the command prints is the key, without the line's end."""
        assert await read_kek(python("print('k' * 64)")) == KeyFile(SECRET.encode())

    async def test_no_shell(self, tmp_path: Path) -> None:
        """What a shell would do is not done."""
        printed = f"a; touch {tmp_path}/made"
        assert await read_kek(FromCommand(f"echo {printed}")) == KeyFile(printed.encode())
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            (python("raise SystemExit(3)"), "exit code 3"),
            (python("print('k' * 10000)"), "more than 4096 bytes"),
            (python("print('k')"), "shorter than 32"),
            (FromCommand("/does/not/exist"), "cannot be run"),
            (FromCommand(""), "is empty"),
            (FromCommand("'"), "--ca-key-command"),
        ],
    )
    async def test_fails(self, source: FromCommand, says: str) -> None:
        """Whatever goes wrong is told, never the output."""
        with pytest.raises(ConfigError, match=says):
            await read_kek(source)

    async def test_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A command that does not end is ended, with what it started."""
        monkeypatch.setattr(key_source, "COMMAND_SECONDS", 0.5)
        alive = tmp_path / "alive"
        code = f"while true; do date +%s%N > {alive}; sleep 0.05; done & sleep 60"
        with pytest.raises(ConfigError, match="did not end within"):
            await read_kek(FromCommand(f"sh -c '{code}'"))
        deadline = time.monotonic() + 10
        while True:
            before = alive.read_text()
            await trio.sleep(0.3)
            if alive.read_text() == before:
                return
            assert time.monotonic() < deadline

from pathlib import Path

import pytest

from registry.cli.config import Overrides, Settings, load_settings
from registry.errors import ConfigError

FILE = 'server = "https://file:15010"\ntoken = "from-file"\nca_pem = "pem"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Give the default file of the home `tmp_path`, readable by its owner alone."""
    path = tmp_path / ".config" / "nodemesh" / "meshctl.toml"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def load(home: Path, environ: dict[str, str] | None = None, **said: object) -> Settings:
    return load_settings(Overrides(**said), environ=environ or {}, home=home)  # type: ignore[arg-type]


@pytest.mark.usefixtures("config")
def test_the_default_file_is_found(tmp_path: Path) -> None:
    """Without a word the file in the home is read."""
    assert load(tmp_path).server == "https://file:15010"


@pytest.mark.usefixtures("config")
def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable replaces what the file says."""
    assert load(tmp_path, {"MESHCTL_SERVER": "https://env:15010"}).server == "https://env:15010"


@pytest.mark.usefixtures("config")
def test_options_win_over_the_environment(tmp_path: Path) -> None:
    """An option replaces what a variable says."""
    found = load(tmp_path, {"MESHCTL_SERVER": "https://env:15010"}, server="https://option:15010")
    assert found.server == "https://option:15010"


@pytest.mark.usefixtures("config")
def test_what_is_not_overridden_comes_from_the_file(tmp_path: Path) -> None:
    """Overriding the server keeps the file's token."""
    assert load(tmp_path, server="https://option:15010").token == "from-file"


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    """MESHCTL_CONFIG is read instead of the default file."""
    path = tmp_path / "other.toml"
    path.write_text(FILE)
    assert load(tmp_path, {"MESHCTL_CONFIG": str(path)}).token == "from-file"


def test_a_ca_file_replaces_the_inline_one(tmp_path: Path, config: Path) -> None:
    """--ca is a file whose text is trusted instead of ca_pem."""
    ca = tmp_path / "ca.pem"
    ca.write_text("other pem")
    assert load(tmp_path, config=config, ca=ca).ca_pem == "other pem"


def test_server_and_token_need_no_file(tmp_path: Path) -> None:
    """With both overridden no file is looked for."""
    assert load(tmp_path, server="https://a:1", token="t") == Settings(server="https://a:1", token="t")


def test_a_file_named_but_absent_is_an_error(tmp_path: Path) -> None:
    """A file the operator names must exist, whatever else is given."""
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load(tmp_path, config=tmp_path / "absent.toml", server="https://a:1", token="t")


def test_nothing_at_all_says_what_to_do(tmp_path: Path) -> None:
    """Without any configuration the message names the file, the option and who writes the file."""
    with pytest.raises(ConfigError, match=r"no server and no token; .*nodemesh-registry init.*--config"):
        load(tmp_path)


def test_an_unknown_field_is_named(tmp_path: Path, config: Path) -> None:
    """A misspelt field is an error that names it and the ones there are."""
    config.write_text('sever = "https://a:1"')
    with pytest.raises(ConfigError, match="unknown field `sever`; the fields are server, token and ca_pem"):
        load(tmp_path)


def test_broken_toml_says_where(tmp_path: Path, config: Path) -> None:
    """A file that is not TOML is an error with the line."""
    config.write_text("server = x")
    with pytest.raises(ConfigError, match=r"is not TOML: .*line 1"):
        load(tmp_path)


def test_a_file_others_may_read_is_warned_of(tmp_path: Path, config: Path) -> None:
    """A token that others may read is used, with a warning that says the mend."""
    config.chmod(0o644)
    assert load(tmp_path).warnings == (
        f"{config} holds a token and others may read it (mode 0644); run: chmod 600 {config}",
    )


@pytest.mark.usefixtures("config")
def test_a_private_file_is_not_warned_of(tmp_path: Path) -> None:
    """Mode 0600 is as it should be."""
    assert load(tmp_path).warnings == ()


def test_the_token_never_travels_in_clear(tmp_path: Path) -> None:
    """Plain HTTP to another host is refused, with the address to write instead."""
    with pytest.raises(ConfigError, match=r"write https://mesh\.example:80"):
        load(tmp_path, server="http://mesh.example:80", token="t")


@pytest.mark.parametrize("server", ["http://127.0.0.1:80", "http://[::1]:80", "http://localhost:80"])
def test_plain_http_may_be_used_on_this_host(tmp_path: Path, server: str) -> None:
    """On loopback nobody listens in."""
    assert load(tmp_path, server=server, token="t").server == server


@pytest.mark.parametrize(
    "server", ["mesh.example:15010", "ftp://a", "https://", "nonsense", "https://[", "https://a:99999"]
)
def test_no_address_is_said_to_be_none(tmp_path: Path, server: str) -> None:
    """Text that is no URL is refused with the shape of one."""
    with pytest.raises(ConfigError, match="write https://HOST:15010"):
        load(tmp_path, server=server, token="t")


def test_settings_do_not_show_the_token() -> None:
    """The representation that ends in logs and tracebacks is without the token."""
    assert "hush" not in repr(Settings(server="https://a:1", token="hush"))


def test_overrides_do_not_show_the_token() -> None:
    """Nor does that of the command line's own words."""
    assert "hush" not in repr(Overrides(token="hush"))

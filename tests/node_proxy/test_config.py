from pathlib import Path

import pytest

from node_proxy import config
from node_proxy.address import SocketAddress
from node_proxy.errors import ConfigError
from node_proxy.snapshot import OwnerRule

PROXY = """
node = "web-1"
address = "10.77.0.1"
registry = "https://127.0.0.1:15010"
"""
WEB = """
name = "web"
ports = [8080]
labels = { app = "web" }
"""


class Files:
    """A directory with proxy.toml and workloads.d."""

    def __init__(self, root: Path) -> None:
        self.proxy = root / "proxy.toml"
        self.workloads = root / "workloads.d"
        self.workloads.mkdir()

    def load(self, proxy: str, **workloads: str) -> config.NodeConfig:
        """Write the files and read them."""
        self.proxy.write_text(proxy)
        for name, text in workloads.items():
            (self.workloads / f"{name}.toml").write_text(text)
        return config.load(self.proxy, workloads=self.workloads)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_defaults(files: Files) -> None:
    """A file of three lines is enough, and gives the ports that Istio uses."""
    node = files.load(PROXY)
    assert node.proxy.tunnel.listen == ("0.0.0.0:15008",)
    assert node.proxy.admin.listen.port == 15020
    assert node.proxy.capture.enabled is False
    assert node.proxy.mark == 0x539
    assert node.workloads == ()


def test_everything_can_be_set(files: Files) -> None:
    """Every section is read into its place."""
    node = files.load(
        PROXY
        + """
        workers = 2
        log_level = "debug"
        default_workload = "default/web"
        state_dir = "/tmp/x"
        [etcd]
        endpoints = ["etcd.example:2379"]
        ca = "/ca.pem"
        cert = "/cert.pem"
        key = "/key.pem"
        user = "u"
        password_file = "/p"
        [tunnel]
        listen = ["127.0.0.1:15008", "[::1]:15008"]
        [capture]
        enabled = true
        port = 16001
        exempt_ports = [22]
        [admin]
        listen = "127.0.0.1:0"
        [[listener]]
        address = "127.0.0.1:9001"
        service = "default/api"
        port = 80
        workload = "default/web"
        """,
        web=WEB + '[health]\ntype = "http"\npath = "/ok"\nport = 8081\n',
    )
    assert node.proxy.etcd.endpoints == ("etcd.example:2379",)
    assert [str(each.ip) for each in node.proxy.tunnel.listen] == ["127.0.0.1", "::1"]
    assert node.proxy.listener[0].service == "default/api"
    assert node.workloads[0].health.path == "/ok"


def test_account_defaults_to_name(files: Files) -> None:
    """A workload without an account speaks as the account of its own name."""
    node = files.load(
        PROXY, web=WEB, api='name = "api"\nports = [1]\naccount = "backend"\nnamespace = "shop"\n'
    )
    identities = {each.qualified: str(each.identity("m.example")) for each in node.workloads}
    assert identities == {
        "default/web": "spiffe://m.example/ns/default/sa/web",
        "shop/api": "spiffe://m.example/ns/shop/sa/backend",
    }


@pytest.mark.parametrize(
    ("text", "field", "mend"),
    [
        ('node = "web-1"', "", "add address"),
        (PROXY + "adress = 1", "", "did you mean address?"),
        (PROXY + "[tunnel]\nlissten = []", "tunnel", "did you mean listen?"),
        (PROXY + "[tunnel]\nlisten = ['127.0.0.1']", "tunnel.listen[0]", "write it as 127.0.0.1:15008"),
        (PROXY + "[tunnel]\nlisten = ['::1:15008']", "tunnel.listen[0]", "write [::1]:15008"),
        (PROXY + "[tunnel]\nlisten = ['localhost:15008']", "tunnel.listen[0]", "is not an IP address"),
        (PROXY + "[tunnel]\nlisten = [15008]", "tunnel.listen[0]", "127.0.0.1:15008"),
        (PROXY + "[tunnel]\nlisten = []", "tunnel.listen", "length >= 1"),
        (PROXY + "[admin]\nlisten = '127.0.0.1:99999'", "admin.listen", "is not address:port"),
        (PROXY + "[etcd]\ncert = 'c'", "etcd", "write both or neither"),
        (PROXY + "[etcd]\nuser = 'c'", "etcd", "write both or neither"),
        (PROXY + "[etcd]\nprefix = 'x'", "etcd.prefix", "begin and end with /"),
        (PROXY + "workers = -1", "workers", ">= 0"),
        (PROXY + "default_workload = 'web'", "default_workload", "write namespace/name"),
        (PROXY + "default_workload = 'default/web'", "default_workload", "declare it in workloads.d"),
        (PROXY.replace("web-1", "Web 1"), "node", "write lower-case letters"),
        (PROXY.replace("10.77.0.1", "web.example"), "address", "write 10.0.0.7 or fd00::7"),
        (PROXY.replace("10.77.0.1", "::"), "address", "write the host's own"),
        (PROXY.replace("https", "http"), "registry", "write https://"),
        (
            PROXY + "[[listener]]\naddress = '127.0.0.1:15020'\nservice = 'a/b'\nport = 1",
            "listener[0].address",
            "overlaps",
        ),
        (
            PROXY + "[[listener]]\naddress = '127.0.0.1:1'\nservice = 'a/b'\nport = 1\nworkload = 'a/c'",
            "listener[0].workload",
            "is no workload of this node",
        ),
        ("node = ", "", "is not TOML"),
    ],
)
def test_mistakes_in_proxy_toml(files: Files, text: str, field: str, mend: str) -> None:
    """Each mistake names the file, the field and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        files.load(text)
    message = str(caught.value)
    assert message.startswith(f"{files.proxy}: {field}: " if field else f"{files.proxy}: ")
    assert mend in message


@pytest.mark.parametrize(
    ("workloads", "place", "mend"),
    [
        ({"web": "ports = [1]"}, "web.toml", "add name"),
        ({"web": WEB + "extra = 1"}, "web.toml", "unknown field `extra`"),
        ({"web": WEB + "address = 'web'"}, "web.toml: address", "is not an IP address"),
        ({"web": WEB + "[health]\npath = 'ok'"}, "web.toml: health.path", "write /ok"),
        ({"web": WEB + "[health]\ntype = 'grpc'"}, "web.toml: health.type", "Invalid enum value 'grpc'"),
        ({"web": WEB + "[health]\npth = 'ok'"}, "web.toml: health", "did you mean path?"),
        ({"web": "name = 'web'\nports = []"}, "web.toml: ports", "length >= 1"),
        ({"web": "name = 'web'\nports = [0]"}, "web.toml: ports[0]", ">= 1"),
        ({"a": WEB, "b": WEB.replace("8080", "81")}, "b.toml: name", "is declared in"),
        ({"a": WEB, "b": WEB.replace('"web"', '"api"')}, "b.toml: ports", "ports are unique on a node"),
        ({"a": WEB.replace("8080", "15008")}, "a.toml: ports", "the proxy's own (tunnel.listen[0])"),
    ],
)
def test_mistakes_in_workloads(files: Files, workloads: dict[str, str], place: str, mend: str) -> None:
    """A workload's file is named like proxy.toml is."""
    with pytest.raises(ConfigError) as caught:
        files.load(PROXY, **workloads)
    assert place in str(caught.value)
    assert mend in str(caught.value)


def test_missing_files(tmp_path: Path, files: Files) -> None:
    """A file or a named directory that is not there is the operator's fault; nothing else is read."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        config.load(tmp_path / "nowhere.toml")
    files.proxy.write_text(PROXY + f'workloads_dir = "{tmp_path}/nowhere"')
    with pytest.raises(ConfigError, match="no such directory; correct workloads_dir"):
        config.load(files.proxy)


def test_workloads_dir_of_the_file(files: Files) -> None:
    """Without --workloads the directory that proxy.toml names is read."""
    (files.workloads / "web.toml").write_text(WEB)
    files.proxy.write_text(PROXY + f'workloads_dir = "{files.workloads}"')
    assert [each.qualified for each in config.load(files.proxy).workloads] == ["default/web"]


def test_both_families_do_not_overlap() -> None:
    """Wildcards collide within their family only, and never on a port the kernel chooses."""
    assert SocketAddress("0.0.0.0:80").overlaps(SocketAddress("127.0.0.1:80"))
    assert not SocketAddress("0.0.0.0:80").overlaps(SocketAddress("[::1]:80"))
    assert not SocketAddress("127.0.0.2:80").overlaps(SocketAddress("127.0.0.1:80"))
    assert not SocketAddress("127.0.0.1:0").overlaps(SocketAddress("127.0.0.1:0"))


class TestOwners:
    """Which processes speak for a workload."""

    def test_read(self, files: Files) -> None:
        """Unit, user and cgroup are read, and a user's name becomes its number."""
        node = files.load(
            PROXY + 'unknown_callers = "refuse"\n',
            web=WEB + 'unit = "web.service"\nuser = "root"\n',
            api='name = "api"\nports = [1]\ncgroup = "/shop.slice"\nuser = 1000\n',
            any='name = "any"\nports = [2]\n',
        )
        assert {each.name: each.owner for each in node.workloads} == {
            "web": OwnerRule(unit="web.service", uid=0),
            "api": OwnerRule(cgroup="/shop.slice", uid=1000),
            "any": None,
        }
        assert node.proxy.unknown_callers == "refuse"

    @pytest.mark.parametrize(
        ("line", "field", "mend"),
        [
            ('unit = "web"', "unit", "write web.service"),
            ('unit = "web.socket"', "unit", "write the service that it starts"),
            ('cgroup = "shop.slice"', "cgroup", "write /shop.slice"),
            ('unit = "web.service"\ncgroup = "/shop.slice"', "cgroup", "not both"),
            ('user = "no-such-user"', "user", "create it, or write its number"),
            ('user = "no-such-user"', "user", "DynamicUser="),
            ('user = "1000"', "user", "write user = 1000"),
            ("user = -1", "user", ">= 0"),
            ("user = 4294967295", "user", "<= 4294967294"),
            ("unti = 1", "", "did you mean unit?"),
        ],
    )
    def test_complaints(self, files: Files, line: str, field: str, mend: str) -> None:
        """A wrong declaration names its file and what to write instead."""
        with pytest.raises(ConfigError) as raised:
            files.load(PROXY, web=WEB + line + "\n")
        assert str(raised.value).startswith(f"{files.workloads}/web.toml: {field}")
        assert mend in str(raised.value)

    def test_ambiguous(self, files: Files) -> None:
        """Two workloads of the same processes are refused; both files and the mend are named."""
        with pytest.raises(ConfigError) as raised:
            files.load(
                PROXY,
                a='name = "a"\nports = [1]\nunit = "x.service"\nuser = 0\n',
                b='name = "b"\nports = [2]\nunit = "x.service"\n',
                c='name = "c"\nports = [3]\nunit = "x.service"\nuser = "root"\n',
            )
        for part in (f"{files.workloads}/a.toml", f"{files.workloads}/c.toml", "tell them apart by unit"):
            assert part in str(raised.value)

    def test_unknown_callers(self, files: Files) -> None:
        """What becomes of unknown callers is one of two words."""
        with pytest.raises(ConfigError, match="unknown_callers"):
            files.load(PROXY + 'unknown_callers = "allow"\n')

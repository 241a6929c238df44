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


class TestCallersAddress:
    """Workloads that want to know where their callers are."""

    CAPTURE = "[capture]\nenabled = true\n"

    def test_read(self, files: Files) -> None:
        """Both ways are read."""
        node = files.load(
            PROXY + self.CAPTURE,
            a='name = "a"\nports = [1]\naddress = "10.77.0.1"\npreserve_source = true\n',
            b='name = "b"\nports = [2]\nproxy_protocol = "v2"\n',
            c='name = "c"\nports = [3]\n',
        )
        assert [(each.preserve_source, each.proxy_protocol) for each in node.workloads] == [
            (True, None),
            (False, "v2"),
            (False, None),
        ]

    @pytest.mark.parametrize(
        ("proxy", "lines", "field", "mend"),
        [
            (CAPTURE, "preserve_source = true", "preserve_source", 'write address = "10.77.0.1"'),
            (CAPTURE, "preserve_source = true\naddress = '::1'", "preserve_source", "listen on this host"),
            (CAPTURE, "preserve_source = true\naddress = '0.0.0.0'", "preserve_source", "proxy_protocol"),
            ("", "preserve_source = true\naddress = '10.77.0.1'", "preserve_source", "enabled = true"),
            (
                CAPTURE,
                "preserve_source = true\nproxy_protocol = 'v2'\naddress = '10.77.0.1'",
                "preserve_source",
                "write one of the two",
            ),
            ("", "proxy_protocol = 'v1'", "proxy_protocol", "v1"),
        ],
    )
    def test_complaints(self, files: Files, proxy: str, lines: str, field: str, mend: str) -> None:
        """What cannot work is refused, and says what would."""
        with pytest.raises(ConfigError) as raised:
            files.load(PROXY + proxy, web=WEB + lines + "\n")
        assert str(raised.value).startswith(f"{files.workloads}/web.toml: {field}")
        assert mend in str(raised.value)

    def test_plaintext_port(self, files: Files) -> None:
        """The plaintext listener's port is the proxy's own, on every address, when there is one."""
        web = WEB.replace("8080", "15006")
        assert files.load(PROXY + self.CAPTURE, web=web).workloads
        with pytest.raises(ConfigError, match=r"15006 is the proxy's own \(capture.inbound_port\)"):
            files.load(PROXY + self.CAPTURE + "inbound = true\n", web=web)


class TestListeners:
    """Explicit ways in."""

    def test_read(self, files: Files) -> None:
        """Each type is read, at an address or a path."""
        node = files.load(
            PROXY
            + 'outbound_policy = "passthrough"\n'
            + '[[listener]]\naddress = "127.0.0.1:1080"\ntype = "socks5"\n'
            + '[[listener]]\naddress = "unix:/run/nodemesh/proxy"\ntype = "http_connect"\nmode = "0666"\n'
            + 'owner = "root"\ngroup = 4243\n'
            + '[[listener]]\naddress = "unix:/run/nodemesh/api"\nservice = "default/api"\nport = 80\n'
        )
        socks, proxy, api = node.proxy.listener
        assert socks.address.tcp == SocketAddress("127.0.0.1:1080")
        assert (proxy.address.path, proxy.bits) == ("/run/nodemesh/proxy", 0o666)
        assert (proxy.owner, proxy.group) == (0, 4243)
        assert (api.type, api.service, api.port, api.bits) == ("service", "default/api", 80, 0o660)
        assert node.proxy.outbound_policy == "passthrough"

    @pytest.mark.parametrize(
        ("lines", "field", "mend"),
        [
            ('address = "127.0.0.1:1"\nport = 80', "service", "add service = "),
            ('address = "127.0.0.1:1"\nservice = "a/b"', "port", "add port = "),
            ('address = "127.0.0.1:1"\ntype = "socks5"\nport = 80', "port", "remove it"),
            ('address = "10.77.0.1:1"\ntype = "socks5"', "address", "write 127.0.0.1:1 or a unix: path"),
            ('address = "0.0.0.0:1"\ntype = "http_connect"', "address", "is not on loopback"),
            ('address = "127.0.0.1:1"\ntype = "socks5"\nmode = "0600"', "mode", "write a unix: path"),
            ('address = "unix:/a"\ntype = "socks5"\nmode = "rw"', "mode", "regex"),
            ('address = "unix:a"\ntype = "socks5"', "address", "write an absolute path"),
            (f'address = "unix:/{"a" * 102}"\ntype = "socks5"', "address", "is longer than"),
            ('address = "unix:/a"\ntype = "socks5"\nowner = "nobody-here"', "owner", "no user 'nobody-here'"),
            ('address = "unix:/a"\ntype = "socks5"\ngroup = "4243"', "group", "write 4243, without quotes"),
            ('address = "127.0.0.1:1"\ntype = "socks4"', "type", "socks4"),
        ],
    )
    def test_wrong(self, files: Files, lines: str, field: str, mend: str) -> None:
        """What contradicts itself, or would let in another host, is refused with the mend."""
        with pytest.raises(ConfigError) as caught:
            files.load(PROXY + f"[[listener]]\n{lines}\n")
        assert f"listener[0].{field}" in str(caught.value).replace("listener[...]", "listener[0]")
        assert mend in str(caught.value)

    def test_one_path_twice(self, files: Files) -> None:
        """Two listeners cannot have one path."""
        listener = '[[listener]]\naddress = "unix:/a"\ntype = "socks5"\n'
        with pytest.raises(ConfigError, match="unix:/a stands twice"):
            files.load(PROXY + 2 * listener)

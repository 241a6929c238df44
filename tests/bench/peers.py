"""Pairs of nginx, haproxy and stunnel: each connection becomes a TLS connection between the two.

TLS 1.3 only, both certificates checked, one worker or thread each; whatever else is the program's default.
Their own logs go where they go by default, or to a file where that would be the system's log.
"""

from pathlib import Path

from tests.bench.subjects import LOOPBACK, SERVICE_NAME, Ports, Side, Site, Subject, find_program, pick_ports
from tests.support.processes import Process, Processes

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
CONNECTIONS = 8192
# Two descriptors each.
DESCRIPTORS = 2 * CONNECTIONS


def launch_nginx(site: Site) -> Subject:
    """Start a pair of nginx with the stream module."""
    program = find_program("nginx", "nginx")
    if not STREAM_MODULE.exists():
        find_program("ngx_stream_module.so", "libnginx-mod-stream")
    entry, tunnel = pick_ports(), pick_ports()
    accept = f"""
        ssl_certificate {site.far.chain}; ssl_certificate_key {site.far.key}; ssl_protocols TLSv1.3;
        ssl_verify_client on; ssl_client_certificate {site.far.roots};
    """
    connect = f"""
        proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; proxy_ssl_name {SERVICE_NAME};
        proxy_ssl_certificate {site.near.chain}; proxy_ssl_certificate_key {site.near.key};
        proxy_ssl_verify on; proxy_ssl_trusted_certificate {site.near.roots};
    """
    near = _nginx(site, program, "near", entry, tunnel, connect)
    far = _nginx(site, program, "far", tunnel, site.backends, accept, listen="ssl")
    return Subject("nginx", entry, (near, far))


def launch_haproxy(site: Site) -> Subject:
    """Start a pair of haproxy in tcp mode."""
    program = find_program("haproxy", "haproxy")
    entry, tunnel = pick_ports(), pick_ports()
    accept = f"ssl crt {site.far.both} ca-file {site.far.roots} verify required ssl-min-ver TLSv1.3"
    connect = (
        f"ssl crt {site.near.both} ca-file {site.near.roots} verify required ssl-min-ver TLSv1.3"
        f" sni str({SERVICE_NAME}) verifyhost {SERVICE_NAME}"
    )
    near = _haproxy(site, program, "near", entry, tunnel, server=connect)
    far = _haproxy(site, program, "far", tunnel, site.backends, bind=accept)
    return Subject("haproxy", entry, (near, far))


def launch_stunnel(site: Site) -> Subject:
    """Start a pair of stunnel, which has a thread for each connection."""
    program = find_program("stunnel4", "stunnel4")
    entry, tunnel = pick_ports(), pick_ports()
    connect = f"client = yes\ncheckHost = {SERVICE_NAME}"
    near = _stunnel(site, program, "near", entry, tunnel, site.near, connect)
    far = _stunnel(site, program, "far", tunnel, site.backends, site.far, "client = no")
    return Subject("stunnel", entry, (near, far))


def _nginx(
    site: Site, program: str, name: str, accept: Ports, target: Ports, tls: str, *, listen: str = ""
) -> Process:
    servers = "".join(
        f"server {{ listen {LOOPBACK}:{port} {listen}; proxy_pass {LOOPBACK}:{to}; }}\n"
        for port, to in _pairs(accept, target)
    )
    blocks = f"stream {{ {tls} {servers} }}"
    return start_nginx(
        site.processes, site.folder, program, f"nginx-{name}", blocks, f"load_module {STREAM_MODULE};"
    )


def start_nginx(
    processes: Processes, folder: Path, program: str, name: str, blocks: str, load: str = ""
) -> Process:
    """Start nginx with one worker process; `blocks` of configuration, `load` for what must come first."""
    config = folder / f"{name}.conf"
    config.write_text(
        f"{load}\ndaemon off; pid {folder}/{name}.pid;\n"
        f"worker_processes 1; worker_rlimit_nofile {DESCRIPTORS};\n"
        f"events {{ worker_connections {DESCRIPTORS}; }}\n{blocks}\n"
    )
    return processes.start(name, [program, "-c", str(config), "-e", "stderr"])


def _haproxy(
    site: Site, program: str, name: str, accept: Ports, target: Ports, *, bind: str = "", server: str = ""
) -> Process:
    listeners = "".join(
        f"listen port-{port}\n  bind {LOOPBACK}:{port} {bind}\n  server far {LOOPBACK}:{to} {server}\n"
        for port, to in _pairs(accept, target)
    )
    config = site.write(
        f"haproxy-{name}.cfg",
        f"global\n  nbthread 1\n  maxconn {CONNECTIONS}\ndefaults\n  mode tcp\n"
        # haproxy has no default for these and warns without them.
        f"  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n{listeners}",
    )
    return site.processes.start(f"haproxy-{name}", [program, "-db", "-f", str(config)])


def _stunnel(
    site: Site, program: str, name: str, accept: Ports, target: Ports, side: Side, role: str
) -> Process:
    services = "".join(
        f"[port-{port}]\naccept = {LOOPBACK}:{port}\nconnect = {LOOPBACK}:{to}\n{role}\n"
        for port, to in _pairs(accept, target)
    )
    config = site.write(
        f"stunnel-{name}.conf",
        f"foreground = yes\nsyslog = no\npid =\n"
        f"cert = {side.chain}\nkey = {side.key}\nCAfile = {side.roots}\n"
        f"verifyChain = yes\nsslVersion = TLSv1.3\n{services}",
    )
    return site.processes.start(f"stunnel-{name}", [program, str(config)])


def _pairs(accept: Ports, target: Ports) -> tuple[tuple[int, int], tuple[int, int]]:
    return (accept.bulk, target.bulk), (accept.http, target.http)

"""The advice on copy-ups, applied by machine to Debian's databases and servers: none may lose data or stop working.

What was copied up is read off the writable layer of a real overlay (copyup itself is held to that in the kernel ring).
The volume that is advised is mounted, filled from the image; then the program has to work, to have its data after a
restart of the container, and to copy nothing up any more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubetrace.tracers.copyup.remedy import Offender, Remedy, remedies

from . import software


@dataclass(frozen=True)
class Program:
    """A program of an image: how the image is made, what it does, and how its data is read afterwards."""

    name: str
    image: str
    work: str
    check: str
    """Prints `kept` after the restart of a container, if its data is there."""
    places: tuple[str, ...]
    """Where volumes are advised."""


_POSTGRES = """
as_app() { setpriv --reuid=1000 --regid=1000 --clear-groups -- "$@"; }
server() { setpriv --reuid=1000 --regid=1000 --clear-groups -- postgres -D /var/lib/postgresql/main \
        -c listen_addresses= -c unix_socket_directories=/run & server=$!
    until as_app psql -qAt -h /run postgres -c 'SELECT 1' >/dev/null 2>&1; do kill -0 $server; sleep 0.05; done; }
sql() { as_app psql -qAt -v ON_ERROR_STOP=1 -h /run "$@"; }
"""
_REDIS = """
server() { cd /var/lib/redis; redis-server --appendonly yes --port 0 --unixsocket /run/redis --dir /var/lib/redis \
        --enable-debug-command yes > /dev/null & server=$!
    until redis-cli -s /run/redis ping 2>/dev/null | grep -q PONG; do kill -0 $server; sleep 0.05; done; }
cli() { redis-cli -e -s /run/redis "$@"; }
rewritten() { until cli info persistence | tr -d '\\r' | grep -qx aof_rewrite_in_progress:0; do sleep 0.05; done; }
"""
_MARIADB = """
server() { mariadbd --no-defaults --user=root --datadir=/var/lib/mysql --skip-networking --socket=/run/sql \
        --pid-file=/run/pid --innodb-buffer-pool-size=16M --lc-messages-dir=/usr/share/mysql >/dev/null 2>&1 & server=$!
    until mariadb --no-defaults -S /run/sql -e 'SELECT 1' >/dev/null 2>&1; do kill -0 $server; sleep 0.05; done; }
sql() { mariadb --no-defaults -N -S /run/sql -e "$@"; }
"""
_ROTATE = """
printf '%s\\n' '/srv/app/logs/app.log { rotate 3' 'size 1' 'compress' 'create' '}' > /run/rotate.conf
chmod 600 /run/rotate.conf
"""

PROGRAMS = (
    Program(
        "postgres",
        _POSTGRES
        + """
        mkdir -p /var/lib/postgresql/main; chown -R 1000:1000 /var/lib/postgresql
        as_app initdb -A trust -D /var/lib/postgresql/main > /dev/null
        server; sql postgres -c 'CREATE TABLE old (n int)' -c 'INSERT INTO old VALUES (7)'; kill $server; wait $server
        """,
        _POSTGRES
        + """
        server
        sql postgres -c 'INSERT INTO old VALUES (11)' -c 'CREATE TABLE new AS SELECT generate_series(1, 5000) n'
        sql postgres -c 'CREATE DATABASE shop'
        sql shop -c 'CREATE TABLE orders AS SELECT generate_series(1, 3000) n' -c 'CHECKPOINT'
        kill -QUIT $server; wait $server || true
        """,
        _POSTGRES
        + """
        server
        [ "$(sql postgres -c 'SELECT sum(n) FROM old') $(sql postgres -c 'SELECT count(*) FROM new')" = '18 5000' ]
        [ "$(sql shop -c 'SELECT count(*) FROM orders')" = 3000 ]; echo kept
        sql shop -c 'INSERT INTO orders VALUES (1)'; kill $server; wait $server
        """,
        ("/var/lib/postgresql/main",),
    ),
    Program(
        "redis-server",
        _REDIS
        + """
        mkdir -p /var/lib/redis; server; cli set old 7 >/dev/null; cli bgrewriteaof >/dev/null; rewritten
        cli save >/dev/null; cli shutdown || true; wait $server
        """,
        _REDIS
        + """
        server; cli set new 11 > /dev/null; cli bgrewriteaof > /dev/null; rewritten
        cli set newer 13 > /dev/null; cli save > /dev/null; kill -9 $server; wait $server || true
        """,
        _REDIS
        + """
        server; [ "$(cli mget old new newer | tr '\\n' ' ')" = '7 11 13 ' ]; echo kept
        cli bgrewriteaof > /dev/null; rewritten; cli shutdown || true; wait $server
        """,
        ("/var/lib/redis",),
    ),
    Program(
        "mariadbd",
        _MARIADB
        + """
        mkdir -p /var/lib/mysql
        mariadb-install-db --no-defaults --user=root --datadir=/var/lib/mysql --auth-root-authentication-method=normal \
            --skip-test-db --skip-name-resolve --force --basedir=/usr >&2
        server; sql 'CREATE DATABASE shop; CREATE TABLE shop.old (n INT); INSERT INTO shop.old VALUES (7)'
        kill $server; wait $server
        """,
        _MARIADB
        + """
        server; sql 'INSERT INTO shop.old VALUES (11); CREATE DATABASE jobs; CREATE TABLE jobs.new (n INT)'
        sql 'INSERT INTO jobs.new VALUES (13)'; kill -9 $server; wait $server || true
        """,
        _MARIADB
        + """
        server; [ "$(sql 'SELECT SUM(n) FROM shop.old; SELECT n FROM jobs.new' | tr '\\n' ' ')" = '18 13 ' ]; echo kept
        sql 'INSERT INTO jobs.new VALUES (17)'; kill $server; wait $server
        """,
        ("/var/lib/mysql",),
    ),
    Program(
        "sqlite3",
        "mkdir -p /data/shop; sqlite3 /data/shop/orders.db 'CREATE TABLE t (n); INSERT INTO t VALUES (7)'",
        "sqlite3 /data/shop/orders.db 'INSERT INTO t VALUES (11)'; sqlite3 /data/shop/new.db 'CREATE TABLE t (n)'",
        """
        [ "$(sqlite3 /data/shop/orders.db 'SELECT sum(n) FROM t')" = 18 ]; sqlite3 /data/shop/new.db 'SELECT * FROM t'
        echo kept; sqlite3 /data/shop/orders.db 'INSERT INTO t VALUES (1)'
        """,
        ("/data/shop",),
    ),
    Program(
        "nginx",
        "mkdir -p /var/log/nginx /srv/www; echo hello > /srv/www/index.html; echo old > /var/log/nginx/access.log;"
        " echo old > /var/log/nginx/error.log",
        """
        printf '%s\\n' 'daemon off; user root; pid /run/nginx.pid; events {}' > /run/nginx.conf
        printf '%s\\n' 'http { server { listen unix:/run/nginx; root /srv/www; } }' >> /run/nginx.conf
        nginx -c /run/nginx.conf & server=$!
        until [ -S /run/nginx ]; do kill -0 $server; sleep 0.05; done
        kill -USR1 $server; kill -QUIT $server; wait $server; echo entry >> /var/log/nginx/access.log
        """,
        "[ \"$(tr '\\n' ' ' < /var/log/nginx/access.log)\" = 'old entry ' ]; echo kept",
        ("/var/log/nginx",),
    ),
    Program(
        "logrotate",
        "mkdir -p /srv/app/logs /srv/app/bin; seq 5000 > /srv/app/logs/app.log; seq 9 > /srv/app/bin/app",
        _ROTATE + "echo new >> /srv/app/logs/app.log; logrotate -s /run/state /run/rotate.conf",
        _ROTATE
        + """
        [ "$(zcat -f /srv/app/logs/app.log.1* | tail -1)" = new ]; echo kept
        echo newer >> /srv/app/logs/app.log; logrotate -s /run/state /run/rotate.conf; [ -e /srv/app/logs/app.log.2.gz ]
        """,
        ("/srv/app/logs",),
    ),
)


def advice_on(container: software.Container, program: str) -> list[Remedy]:
    """What is said of what the writable layer shows."""
    offenders = []
    for path, upper in container.copied_up().items():
        if upper.is_dir() and not container.changed(path):
            continue
        below = container.below(path)
        size = 0 if upper.is_dir() or below is None else below.stat().st_size
        trigger = "create" if upper.is_dir() else "open-write"
        comm = program.encode()[:15]
        offenders.append(Offender(path, trigger, 1, size, upper.is_dir(), 2, "COPY", "shop/web/app", comm))
    return remedies(offenders, 100)


@pytest.fixture(scope="session")
def base() -> Path:
    return software.lower_layer()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_advice_followed_to_the_letter_keeps_the_data(program: Program, base: Path, tmp_path: Path) -> None:
    build = software.Container([base], tmp_path / "build")
    build.run(program.image)
    layers = [base, build.upper]

    first = software.Container(layers, tmp_path / "first")
    first.run(program.work)
    found = [remedy.record() for remedy in advice_on(first, program.name)]
    assert sorted(os.fsdecode(record["mount"]["path"]) for record in found if record["mount"]) == sorted(program.places)

    volumes = {}
    for number, record in enumerate(record for record in found if record["mount"]):
        mount = record["mount"]
        assert (mount["kind"], mount["filled"]) == ("volume", True)
        volume = volumes[mount["path"]] = tmp_path / f"volume-{number}"
        filled = software.Container(layers, tmp_path / f"init-{number}")
        volume.mkdir()
        filled.run(f"cp -a '{os.fsdecode(mount['path'])}/.' /fill/", {b"/fill": volume})
    again = software.Container(layers, tmp_path / "again")
    again.run(program.work, volumes)
    restarted = software.Container(layers, tmp_path / "restarted")
    assert "kept" in restarted.run(program.check, volumes).split()
    # no file of the image is copied any more
    for container in (again, restarted):
        assert {path for path, upper in container.copied_up().items() if upper.is_file()} == set()


def test_what_was_advised_before_breaks_them(base: Path, tmp_path: Path) -> None:
    """That the test above can fail: volumes at parts of a database, and one that is not filled."""
    postgres, redis = PROGRAMS[0], PROGRAMS[1]
    for program, parts, filled in (
        (postgres, ("global", "pg_wal", "base/5"), True),
        (redis, ("appendonlydir",), False),
    ):
        build = software.Container([base], tmp_path / program.name / "build")
        build.run(program.image)
        layers = [base, build.upper]
        volumes = {}
        for number, part in enumerate(parts):
            place = f"{program.places[0]}/{part}"
            volume = volumes[place.encode()] = tmp_path / program.name / f"volume-{number}"
            volume.mkdir()
            if filled:
                init = software.Container(layers, tmp_path / program.name / f"init-{number}")
                init.run(f"cp -a '{place}/.' /fill/", {b"/fill": volume})
        with pytest.raises(AssertionError):
            software.Container(layers, tmp_path / program.name / "again").run(program.work, volumes)
            software.Container(layers, tmp_path / program.name / "restarted").run(program.check, volumes)

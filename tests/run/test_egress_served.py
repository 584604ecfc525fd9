"""What passes an egress cell arrives as it was sent, is counted, and ends when either side does."""

import json
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from kythera.model.limits import Limits
from kythera.model.records import Confinement
from kythera.run.outbound import Policy, token_of
from tests.run.egress_running import KEY, Egress, egress_running
from tests.run.starting import Workshop

pytestmark = [pytest.mark.real, pytest.mark.anyio]

HEAD = """
const origin = ORIGIN;
const at = (path) => `http://${origin}${path}`;
async function tried(what) {
  try { return await what(); } catch (error) { return `${error.name}: ${error.message}`; }
}
"""


async def said(workshop: Workshop, egress: Egress, body: str, **fields: Any) -> Any:
    """Run a worker whose fetch has this body; return what it answered, as JSON."""
    code = HEAD.replace("ORIGIN", json.dumps(egress.origin)) + (
        "import { connect } from 'cloudflare:sockets';\nimport net from 'node:net';\n"
        "import http from 'node:http';\n"
        "export default { async fetch(request, env, ctx) { const found = await (async () => {"
        + body
        + "})(); return Response.json(found ?? null); } };"
    )
    fields.setdefault("compatibility_flags", ("nodejs_compat",))
    async with workshop.cell(workshop.worker(code, **fields), egress=egress.door) as cell:
        answer = await cell.get()
        assert answer.status_code == 200, cell.said
        return answer.json()


async def test_requests_and_answers_arrive_as_they_were_sent(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Goal: methods, headers, bodies, status, cookies and redirects are the worker's and the
    server's own; nothing of ours is among them."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            const sent = await (await fetch(at('/head?q'), { method: 'PATCH', headers: {
              'x-own': 'yes', 'x-kythera-egress': 'forged', 'X-Kythera-Connect': 'ticket',
              'host': 'elsewhere.example' }, cf: { own: 1 } })).json();
            const cookies = (await fetch(at('/cookies'))).headers.getSetCookie();
            const missing = await fetch(at('/404'));
            const unchanged = await fetch(at('/304'));
            const marks = await fetch(at('/marks'));
            const followed = await fetch(at('/redirect'));
            const manual = await fetch(at('/redirect'), { redirect: 'manual' });
            const gzip = await fetch(at('/gzip'), { headers: { 'accept-encoding': 'gzip' } });
            const head = await fetch(at('/big?n=1234'), { method: 'HEAD' });
            return {
              sent, cookies,
              missing: [missing.status, missing.statusText, await missing.text()],
              unchanged: [unchanged.status, unchanged.headers.get('etag')],
              marks: [[...marks.headers.keys()], await marks.text()],
              followed: [followed.redirected, followed.url, followed.status],
              manual: [manual.status, manual.headers.get('location')],
              gzip: [gzip.headers.get('content-encoding'), gzip.headers.get('x-packed'),
                gzip.headers.get('content-length'), (await gzip.text()).length],
              head: head.headers.get('content-length'),
              none: (await fetch(at('/204'))).status,
              chunked: await (await fetch(at('/chunked'))).text(),
              echo: await (await fetch(at('/echo'), { method: 'POST', body: 'back' })).text(),
              node: await new Promise((done) => http.get(at('/head'), (r) => done(r.statusCode))),
            };
            """,
        )
        assert found["sent"]["method"] == "PATCH"
        assert found["sent"]["url"] == f"http://{egress.origin}/head?q"
        assert "own" not in found["sent"]["cf"]
        names = dict(found["sent"]["headers"])
        assert names.pop("content-length") == "0"
        assert names == {"host": egress.origin, "x-own": "yes"}
        assert found["cookies"] == ["a=1", "b=2"]
        assert found["missing"] == [404, "Nope", "no such page"]
        assert found["unchanged"] == [304, '"x"']
        assert found["marks"][1] == "not ours"
        assert not [name for name in found["marks"][0] if name.startswith("x-kythera")]
        assert found["followed"] == [True, f"http://{egress.origin}/head", 200]
        assert found["manual"] == [302, f"http://{egress.origin}/head"]
        encoding, packed, length, unpacked = found["gzip"]
        assert (encoding, length, unpacked) == ("gzip", packed, 7000)
        assert (found["head"], found["none"], found["node"]) == ("1234", 204, 200)
        assert (found["chunked"], found["echo"]) == ("one two three", "back")


async def test_bytes_are_counted_in_both_directions(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: an operator sees what a worker sends and takes, streams and WebSockets included."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            let taken = 0;
            const big = await fetch(at('/big?n=30000000'));
            for await (const chunk of big.body) { taken += chunk.byteLength; }
            const parts = Array.from({ length: 50 }, () => new Uint8Array(100_000));
            const sent = await (await fetch(at('/count'), { method: 'POST', body: new ReadableStream({
              pull(c) { const part = parts.pop(); part ? c.enqueue(part) : c.close(); } }) })).text();
            return [taken, Number(sent)];
            """,
        )
        assert found == [30_000_000, 5_000_000]
        await egress.settles("open", 0)
        counted = await egress.counted()
        assert (counted["bytes_in"], counted["bytes_out"]) == (30_000_007, 5_000_000)
        assert (counted["requests"], counted["refused"], counted["failed"]) == (2, {}, {})


async def test_websockets_pass_both_ways(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: text, bytes, the protocol and the reason of a close arrive; messages are counted."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            const answer = await fetch(at('/ws'), { headers: { upgrade: 'websocket' } });
            const socket = answer.webSocket;
            socket.accept();
            socket.binaryType = 'arraybuffer';
            const got = [];
            const closed = new Promise((done) => socket.addEventListener('close', (e) => done([e.code, e.reason])));
            const next = () => new Promise((done) => socket.addEventListener('message', (e) => done(e.data), { once: true }));
            let heard = next(); socket.send('hello'); got.push(await heard);
            heard = next(); socket.send(new Uint8Array([1, 2, 3])); got.push([...new Uint8Array(await heard)]);
            socket.send('close');
            return { status: answer.status, protocol: answer.headers.get('sec-websocket-protocol'), got, closed: await closed };
            """,
        )
        assert found == {
            "status": 101,
            "protocol": "chat",
            "got": ["hello", [1, 2, 3]],
            "closed": [4001, "as asked"],
        }
        await egress.settles("open", 0)
        counted = await egress.counted()
        assert (counted["bytes_in"], counted["bytes_out"]) == (8, 13)


async def test_tcp_passes_both_ways(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: `connect()` and node:net carry bytes, and a half that ends does not end the other."""
    async with egress_running(tmp_path) as egress:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

        async def echo(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                received = b""
                async for chunk in stream:
                    received += chunk
                await stream.send(received[::-1])

        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo)
            found = await said(
                workshop,
                egress,
                f"""
                const socket = connect('127.0.0.1:{port}', {{ allowHalfOpen: true }});
                const writer = socket.writable.getWriter();
                await writer.write(new TextEncoder().encode('abc'));
                await writer.close();
                const back = await new Response(socket.readable).text();
                const node = await new Promise((done, failed) => {{
                  let got = '';
                  const s = net.connect({{ port: {port}, host: '127.0.0.1', allowHalfOpen: true }});
                  s.on('connect', () => s.end('xyz'));
                  s.on('data', (data) => {{ got += data; }});
                  s.on('end', () => done(got));
                  s.on('error', failed);
                }});
                return [back, node];
                """,
            )
            tasks.cancel_scope.cancel()
        await listener.aclose()
        assert found == ["cba", "zyx"]
        await egress.settles("open", 0)
        counted = await egress.counted()
        assert (counted["bytes_in"], counted["bytes_out"]) == (6, 6)


async def test_a_worker_has_so_many_connections_at_a_time(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Goal: more than its share wait for their turn, and all are answered."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            const all = await Promise.all(Array.from({ length: 12 }, () => fetch(at('/chunked')).then((r) => r.text())));
            return all.length;
            """,
            confinement=Confinement(outbound_connections=3),
        )
        assert found == 12
        await egress.settles("open", 0)


async def test_whoever_waits_too_long_is_told(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: a server that does not begin, a body that stops and a connection that never becomes
    free end in a sentence, each counted under its reason."""
    limits = Limits(egress_head_ms=400, egress_idle_ms=300, egress_wait_ms=200)
    async with egress_running(tmp_path, limits) as egress:
        found = await said(
            workshop,
            egress,
            """
            const slow = await tried(() => fetch(at('/slow')));
            const stall = await tried(async () => (await fetch(at('/stall'))).text());
            const first = await fetch(at('/endless'));
            const busy = await tried(() => fetch(at('/head')));
            await first.body.cancel();
            return [slow, stall, busy];
            """,
            confinement=Confinement(outbound_connections=1),
        )
        slow, stall, busy = found
        assert slow == "Error: Outbound fetch failed: no answer within 400 ms."
        assert "lost" in stall or "disconnected" in stall or "closed" in stall, stall
        assert busy.startswith("Error: Outbound fetch failed: none of 1 outbound connections")
        await egress.settles("open", 0)
        counted = await egress.counted()
        assert counted["failed"] == {"head_timeout": 1, "idle": 1}
        assert counted["refused"] == {"connections": 1}


async def test_what_the_worker_gives_up_is_given_up(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: an aborted fetch, a body nobody reads and a cell that dies leave no connection."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            const stop = new AbortController();
            const slow = tried(() => fetch(at('/slow'), { signal: stop.signal }));
            await scheduler.wait(100);
            stop.abort();
            await slow;
            const signal = AbortSignal.timeout(500);
            return tried(async () => (await fetch(at('/endless'), { signal })).text());
            """,
        )
        assert "TimeoutError" in found
        await egress.settles("open", 0)
        code = HEAD.replace("ORIGIN", json.dumps(egress.origin)) + (
            "export default { async fetch(r, e, ctx) { const one = await fetch(at('/endless')); "
            "ctx.waitUntil(one.text()); return new Response('left'); } };"
        )
        async with workshop.cell(workshop.worker(code), egress=egress.door) as cell:
            assert (await cell.get()).text == "left"
            await egress.settles("open", 1)
        await egress.settles("open", 0)


async def raw(path: Path, sent: bytes) -> bytes:
    """Send bytes to the egress cell as somebody who is inside a cell's process could."""
    received = b""
    with anyio.move_on_after(5):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(sent)
            async for chunk in stream:
                received += chunk
    return received


async def test_who_does_not_say_who_it_is_gets_nowhere(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: without a token, with another's words under it, or with a ticket that was never given,
    nothing is reached; each is counted."""
    async with egress_running(tmp_path) as egress:
        policy = Policy(account="a", worker="w", version="v", connections=9)
        token = token_of(policy, KEY)
        payload, _, mac = token_of(msgspec.structs.replace(policy, worker="other"), "no").partition(
            "."
        )
        head = f"GET http://{egress.origin}/head HTTP/1.1\r\nConnection: close\r\n"
        ask = f"{head}X-Kythera-Egress: %s\r\n\r\n"
        assert b" 200 " in (await raw(egress.door.socket, (ask % token).encode()))[:20]
        mixed = f"{payload}.{token.partition('.')[2]}"
        for forged in ("", "a.b", f"{payload}.{mac}", mixed, f"{token}.x", "=" * 5000):
            answer = await raw(egress.door.socket, (ask % forged).encode())
            assert b" 403 " in answer[:20], forged
            assert b"x-kythera-refused: token" in answer.lower()
        assert b" 403 " in (await raw(egress.door.socket, f"{head}\r\n".encode()))[:20]
        for tunnel in (egress.origin, f"{token[:200]}:1", "0" * 36 + ":1"):
            connect = f"CONNECT {tunnel} HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n"
            answer = await raw(egress.door.socket, connect.encode())
            assert b"+" not in answer.partition(b"\r\n\r\n")[2], tunnel
        assert (await egress.counters())["forged"] >= 9
        assert [worker["worker"] for worker in (await egress.counters())["workers"]] == ["w"]


async def test_heads_have_an_end(workshop: Workshop, tmp_path: Path) -> None:
    """Goal: a head of megabytes, from the worker or from the server, fails that request alone."""
    async with egress_running(tmp_path) as egress:
        found = await said(
            workshop,
            egress,
            """
            const server = await tried(async () => (await fetch(at('/heads?n=8000000'))).status);
            const worker = await tried(async () => (await fetch(at('/head'), { headers: { a: 'x'.repeat(8_000_000) } })).status);
            const usual = await tried(async () => (await fetch(at('/heads?n=8000'))).headers.get('x-big').length);
            return [server, worker, usual];
            """,
        )
        assert found[0].startswith("Error: Outbound fetch failed: ")
        assert found[1:] == [431, 8000]
        await egress.settles("open", 0)

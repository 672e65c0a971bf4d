"""A web server with a page, a stream of events and a WebSocket: server.py NAME HOST PORT FOLDER

Servers with one folder are one platform's: the lines of its file `news` are the events, and what is posted is a line of
its file `posts`. Rule: an event has the number of its line, and comes after the one that the listener has heard of.
"""

import asyncio
import pathlib
import sys

from aiohttp import WSMsgType, web

NAME, HOST, PORT, FOLDER = sys.argv[1], sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4])

PAGE = """<!doctype html><title>Bascule</title><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body { font: 20px sans-serif; margin: 2em }</style>
<h1>Webmail</h1><p>Served by <b id="server"></b>, <b id="count">0</b> events,
socket to <b id="socket"></b>, told <b id="told">nothing</b>
<script>
const seen = { events: [], opened: 0, errors: [], sockets: [], closes: [], answers: [], posts: 0 };
const show = (id, text) => document.getElementById(id).textContent = text;
const source = new EventSource("/events");
source.onopen = () => seen.opened++;
source.onerror = () => seen.errors.push("events " + source.readyState);
source.onmessage = event => { seen.events.push(event.lastEventId + " " + event.data); show("count", seen.events.length) };
function connect() {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
    socket.onopen = () => { seen.sockets.push("open"); socket.send("who") };
    socket.onmessage = message => { seen.sockets.push(message.data); show("socket", message.data) };
    socket.onerror = () => seen.errors.push("socket");
    socket.onclose = close => {
        seen.closes.push(close.code + " " + close.wasClean);
        show("told", close.code);
        setTimeout(connect, 20);
    };
}
connect();
async function ask() {
    try {
        const answer = await (await fetch("/who")).text();
        seen.answers.push(answer);
        show("server", answer);
        const posted = await fetch("/post", { method: "POST", body: "post " + seen.posts });
        if (posted.status !== 200) seen.errors.push("post " + posted.status);
        seen.posts++;
    } catch (error) {
        seen.errors.push(String(error));
    }
    setTimeout(ask, 30);
}
ask();
</script>
"""


async def page(request):
    return web.Response(text=PAGE, content_type="text/html")


async def who(request):
    return web.Response(text=NAME)


async def post(request):
    line = f"{NAME} {await request.text()}\n"
    with open(FOLDER / "posts", "a") as posts:
        posts.write(line)
    return web.Response(text=NAME)


async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    heard = int(request.headers.get("Last-Event-ID") or 0)
    try:
        while True:
            lines = (FOLDER / "news").read_text().splitlines()
            for line in lines[heard:]:
                heard += 1
                event = f": {NAME}\nid: {heard}\ndata: {line}\n\n".encode()
                for piece in event[:15], event[15:]:
                    await response.write(piece)
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.005)
    except ConnectionResetError:
        return response


async def socket(request):
    ws = web.WebSocketResponse(heartbeat=30)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            await ws.send_str(NAME)
    return ws


async def serve():
    """Serves until the file NAME.off appears, and again when it has gone; NAME.is-off says that nobody is served."""
    off, is_off = FOLDER / f"{NAME}.off", FOLDER / f"{NAME}.is-off"
    routes = [("/", page), ("/who", who), ("/events", events), ("/socket", socket)]
    while True:
        while off.exists():
            is_off.touch()
            await asyncio.sleep(0.01)
        app = web.Application()
        app.add_routes([web.get(path, handler) for path, handler in routes] + [web.post("/post", post)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, HOST, PORT, shutdown_timeout=0.1).start()
        is_off.unlink(missing_ok=True)
        print("ready", flush=True)
        while not off.exists():
            await asyncio.sleep(0.01)
        await runner.cleanup()


asyncio.run(serve())

/** The RPC's own fetch against Bun.serve, by both kinds of address, and against peers that misbehave. */

import { expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSocketFetch } from "../../lib/rpc/socket-fetch.ts";
import { mayHaveRun } from "../../lib/rpc/target.ts";

const post = (body: string, signal?: AbortSignal): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json", "skein-test": "yes" },
  body,
  ...(signal ? { signal } : {}),
});

/** Answers what it was asked, as JSON. */
const echo = async (request: Request) =>
  new Response(JSON.stringify({ path: new URL(request.url).pathname, body: await request.text() }), {
    status: 201,
    headers: { "skein-test": request.headers.get("skein-test") ?? "" },
  });

test("a call goes by TCP and by unix socket, with status, headers and body", async () => {
  const unix = join(tmpdir(), `skein-fetch-${process.pid}.sock`);
  const tcp = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: echo });
  const local = Bun.serve({ unix, fetch: echo });
  for (const address of [{ hostname: "127.0.0.1", port: tcp.port! }, { unix }]) {
    const send = createSocketFetch(address);
    for (const body of ["x", "", "größer ✓", "y".repeat(300_000)]) {
      const response = await send("http://localhost/rpc/a/b", post(body));
      expect(response.status).toBe(201);
      expect(response.headers.get("skein-test")).toBe("yes");
      expect(await response.json()).toEqual({ path: "/rpc/a/b", body });
    }
  }
  await Promise.all([tcp.stop(true), local.stop(true)]);
});

test("calls at once each get their own answer, and connections are used again", async () => {
  const ports = new Set<number>();
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, self) {
      ports.add(self.requestIP(request)!.port);
      return echo(request);
    },
  });
  const send = createSocketFetch({ hostname: "127.0.0.1", port: server.port! });
  for (let round = 0; round < 10; round++) {
    const bodies = Array.from({ length: 5 }, (_, i) => `${round}-${i}`);
    const answers = await Promise.all(bodies.map(async (body) => (await send("http://x/", post(body))).json()));
    expect(answers).toEqual(bodies.map((body) => ({ path: "/", body })));
  }
  expect(ports.size).toBe(5);
  await server.stop(true);
});

test("a body in chunks is put together", async () => {
  const chunks = ["one ", "two ", "three"];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () =>
      new Response(
        new ReadableStream({
          async start(controller) {
            for (const chunk of chunks) {
              controller.enqueue(new TextEncoder().encode(chunk));
              await Bun.sleep(1);
            }
            controller.close();
          },
        }),
      ),
  });
  const send = createSocketFetch({ hostname: "127.0.0.1", port: server.port! });
  expect(await (await send("http://x/", post(""))).text()).toBe("one two three");
  await server.stop(true);
});

test("nobody there: certainly not executed; cut off under way: perhaps", async () => {
  const missing = createSocketFetch({ unix: join(tmpdir(), "skein-fetch-nobody.sock") });
  const refused = createSocketFetch({ hostname: "127.0.0.1", port: 1 });
  for (const send of [missing, refused]) {
    const error = await send("http://x/", post("a")).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(Error);
    expect(mayHaveRun(error)).toBe(false);
  }
  const cutter = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: (socket) => void socket.terminate() } });
  const error = await createSocketFetch({ hostname: "127.0.0.1", port: cutter.port })("http://x/", post("a")).catch(
    (caught: unknown) => caught,
  );
  expect(mayHaveRun(error)).toBe(true);
  cutter.stop(true);
});

test("an answer that is no HTTP rejects, and the next call opens a new connection", async () => {
  let calls = 0;
  const server = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(socket) {
        calls += 1;
        socket.write(calls === 1 ? "nonsense\r\n\r\n" : "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
      },
    },
  });
  const send = createSocketFetch({ hostname: "127.0.0.1", port: server.port });
  expect(send("http://x/", post("a"))).rejects.toThrow("not HTTP/1.1");
  expect(await (await send("http://x/", post("b"))).text()).toBe("ok");
  server.stop(true);
});

test("an aborted call rejects with the reason, also before it is sent", async () => {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Promise<Response>(() => undefined) });
  const send = createSocketFetch({ hostname: "127.0.0.1", port: server.port! });
  const reason = new Error("too late");
  const controller = new AbortController();
  const under = send("http://x/", post("a", controller.signal));
  controller.abort(reason);
  expect(under).rejects.toBe(reason);
  expect(send("http://x/", post("a", AbortSignal.abort(reason)))).rejects.toBe(reason);
  await server.stop(true);
});

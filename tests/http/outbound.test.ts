/** Calls to the outside: reliability.md §3, rows 95-102. What may be called, by which address, and how little a peer can do to us. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { freePort } from "../../lib/free-port.ts";
import {
  checkOutboundUrl,
  createOutbound,
  isPublicAddress,
  type OutboundOptions,
  type OutboundResult,
  signWebhook,
} from "../../lib/http/outbound.ts";
import { certificateFor } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";

const never = new AbortController().signal;
const closers: (() => unknown)[] = [];
afterAll(async () => {
  for (const close of closers) await close();
});

function open(options: Partial<OutboundOptions> = {}) {
  const outbound = createOutbound({ allowPrivate: true, ...options });
  closers.push(() => outbound.close());
  const post = (url: string, signal = never, body = "{}") =>
    outbound.call({ url, headers: { "x-test": "1" }, body }, signal);
  return { outbound, post };
}

// 95, 98: what the text of a URL tells

describe("a URL is refused", () => {
  test.each<[string, string]>([
    ["http", "http://example.com/"],
    ["the local Redis", "http://127.0.0.1:6379/"],
    ["loopback", "https://127.0.0.1/"],
    ["all of loopback", "https://127.9.9.9/"],
    ["a decimal address", "https://2130706433/"],
    ["an octal address", "https://0177.1/"],
    ["a hex address", "https://0x7f.0.0.1/"],
    ["a short address", "https://127.1/"],
    ["an address in full-width digits", "https://①②⑦.0.0.1/"],
    ["nothing's address", "https://0.0.0.0/"],
    ["IPv6 loopback", "https://[::1]/"],
    ["IPv6 nothing", "https://[::]/"],
    ["a mapped address", "https://[::ffff:127.0.0.1]/"],
    ["a mapped address in hex", "https://[::ffff:7f00:1]/"],
    ["a mapped public address", "https://[::ffff:8.8.8.8]/"],
    ["a translated address", "https://[64:ff9b::7f00:1]/"],
    ["6to4", "https://[2002:7f00:1::]/"],
    ["Teredo", "https://[2001:0:7f00:1::]/"],
    ["unique local", "https://[fc00::1]/"],
    ["more unique local", "https://[fdff:ffff::1]/"],
    ["link local", "https://[fe80::1]/"],
    ["site local", "https://[fec0::1]/"],
    ["IPv6 multicast", "https://[ff02::1]/"],
    ["IPv6 documentation", "https://[2001:db8::1]/"],
    ["10/8", "https://10.1.2.3/"],
    ["172.16/12", "https://172.31.255.255/"],
    ["192.168/16", "https://192.168.0.1/"],
    ["shared address space", "https://100.64.0.1/"],
    ["the metadata service", "https://169.254.169.254/latest/meta-data/"],
    ["benchmarking", "https://198.19.0.1/"],
    ["documentation", "https://203.0.113.7/"],
    ["multicast", "https://224.0.0.1/"],
    ["broadcast", "https://255.255.255.255/"],
    ["reserved", "https://240.0.0.1/"],
    ["a file", "file:///etc/passwd"],
    ["gopher", "gopher://example.com/_x"],
    ["redis", "redis://example.com/"],
    ["data", "data:text/plain,x"],
    ["a user", "https://good@example.com/"],
    ["a user and a password", "https://a:b@example.com/"],
    ["ssh's port", "https://example.com:22/"],
    ["Redis' port", "https://example.com:6379/"],
    ["http's port", "https://example.com:80/"],
    ["a line break", "https://example.com/\r\nx-evil: 1"],
    ["a tab in the host", "https://exa\tmple.com/"],
    ["a blank", "https://example.com/a b"],
    ["no host", "https:///"],
    ["no URL", "example.com"],
    ["nothing", ""],
    ["1 001 characters", `https://example.com/${"a".repeat(981)}`],
  ])("with %s", (_, url) => {
    expect(() => checkOutboundUrl(url, { allowPrivate: false })).toThrow(expect.objectContaining({ code: "INVALID" }));
  });

  test("and the refusal does not repeat it", () => {
    expect(() => checkOutboundUrl("https://user:swordfish@a.example/", { allowPrivate: false })).toThrow(
      /^(?!.*swordfish)/,
    );
  });
});

test.each([
  "https://example.com/",
  "https://example.com:443/x?y=z",
  "https://example.com:8443/",
  "https://8.8.8.8/",
  "https://[2606:4700:4700::1111]/",
  "https://172.32.0.1/",
  "https://100.128.0.1/",
])("%s may be called", (url) => {
  expect(checkOutboundUrl(url, { allowPrivate: false }).protocol).toBe("https:");
});

test("the operator's setting allows http, any port and private addresses, and no user names still", () => {
  for (const url of ["http://127.0.0.1:6379/", "https://10.0.0.1:22/"])
    expect(checkOutboundUrl(url, { allowPrivate: true }).hostname).not.toBe("");
  for (const url of ["ftp://127.0.0.1/", "http://a@127.0.0.1/"])
    expect(() => checkOutboundUrl(url, { allowPrivate: true })).toThrow();
});

test("what is no address is not public", () => {
  for (const text of ["", "localhost", "1.2.3", "::ffff:8.8.8.8", "999.1.1.1", "fe80::1%eth0"]) {
    expect(isPublicAddress(text)).toBe(false);
  }
});

// 96: names

const NAMES: Record<string, readonly string[]> = {
  "localhost.": ["127.0.0.1"],
  "metadata.google.internal": ["169.254.169.254"],
  "rebinding.example": ["8.8.8.8", "127.0.0.1"],
  "six.example": ["::1"],
  "mapped.example": ["::ffff:10.0.0.1"],
};

test.each(Object.keys(NAMES))("the name %s is not called, for it leads to a private address", async (name) => {
  const { post } = open({ allowPrivate: false, resolve: async () => NAMES[name]! });
  expect(await post(`https://${name}/`)).toEqual({ kind: "refused", reason: "the host's address is not public" });
});

test("a name that does not resolve is a failure, and says why", async () => {
  const { post } = open({
    allowPrivate: false,
    resolve: () => Promise.reject(Object.assign(new Error("x"), { code: "ENOTFOUND" })),
  });
  expect(await post("https://nowhere.example/")).toEqual({ kind: "failed", reason: "ENOTFOUND" });
  const empty = open({ resolve: async () => [] });
  expect(await empty.post("https://nowhere.example/")).toMatchObject({ kind: "failed" });
});

describe("over TLS", () => {
  const certificate = certificateFor("hook.example.test");
  let server: ReturnType<typeof Bun.serve>;
  let asked: { host: string | null; body: string; headers: Headers }[] = [];
  beforeAll(() => {
    server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      tls: certificate,
      async fetch(request) {
        asked.push({ host: request.headers.get("host"), body: await request.text(), headers: request.headers });
        return new Response("thanks");
      },
    });
  });
  afterAll(() => server.stop(true));
  const at = (host: string) => `https://${host}:${server.port}/hook?a=b`;

  test("the name is resolved once, its address is connected to, and the certificate must be the name's", async () => {
    asked = [];
    let resolved = 0;
    const resolve = async () => {
      resolved += 1;
      // Rebinding: a second look-up would lead elsewhere.
      return resolved === 1 ? ["127.0.0.1"] : ["127.0.0.2"];
    };
    const { post } = open({ resolve, ca: certificate.cert });
    const body = '{"a":"ü"}';
    expect(await post(at("hook.example.test"), never, body)).toMatchObject({
      kind: "answer",
      status: 200,
      body: "thanks",
    });
    expect(resolved).toBe(1);
    expect(asked[0]).toMatchObject({ host: `hook.example.test:${server.port}`, body });
    expect(asked[0]!.headers.get("x-test")).toBe("1");
  });

  test("another name at the same address does not ride on the first one's connection", async () => {
    const { post } = open({ resolve: async () => ["127.0.0.1"], ca: certificate.cert });
    expect(await post(at("hook.example.test"))).toMatchObject({ kind: "answer" });
    expect(await post(at("evil.example.test"))).toEqual({ kind: "failed", reason: "ERR_TLS_CERT_ALTNAME_INVALID" });
    expect(await post(at("hook.example.test"))).toMatchObject({ kind: "answer" });
  });

  test("a certificate that nobody vouches for is refused", async () => {
    const { post } = open({ resolve: async () => ["127.0.0.1"] });
    expect(await post(at("hook.example.test"))).toMatchObject({
      kind: "failed",
      reason: expect.stringMatching(/SELF_SIGNED/),
    });
  });
});

// 97, 99: what a peer may answer

describe("a peer", () => {
  const servers: Server[] = [];
  afterAll(() => {
    for (const server of servers) server.close();
  });
  /** A peer that answers each request's first bytes as told. */
  function peer(answer: (socket: Socket) => void): Promise<string> {
    return new Promise((resolve) => {
      const server = createServer((socket) => {
        socket.on("error", () => undefined);
        socket.once("data", () => answer(socket));
      });
      servers.push(server);
      server.listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${(server.address() as { port: number }).port}/`));
    });
  }
  function pour(socket: Socket, chunk: string | Buffer, everyMs = 0): void {
    if (socket.destroyed) return;
    const again = () => setTimeout(() => pour(socket, chunk, everyMs), everyMs);
    if (socket.write(chunk)) again();
    else socket.once("drain", again);
  }
  /** As long as nobody waits for the end of it: on a busy machine an answer may come after seconds. */
  const limited = async (url: string, ms = 20_000) => {
    const { post } = open();
    return post(url, AbortSignal.timeout(ms)).catch((error: Error) => error.name);
  };

  test("that redirects is not followed", async () => {
    let hits = 0;
    const target = await peer((socket) => {
      hits += 1;
      socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    const url = await peer((socket) =>
      socket.end(`HTTP/1.1 302 Found\r\nLocation: ${target}\r\nContent-Length: 0\r\n\r\n`),
    );
    expect(await limited(url)).toMatchObject({ kind: "answer", status: 302 });
    expect(hits).toBe(0);
  });

  test.each<[string, (socket: Socket) => void, Partial<OutboundResult>]>([
    [
      "sends 10 GB is cut off, and has answered",
      (socket) => {
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n");
        pour(socket, Buffer.alloc(65_536));
      },
      { kind: "answer", status: 200, body: undefined },
    ],
    [
      "sends one byte too many is cut off",
      (socket) => socket.end(`HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n${"a".repeat(65_537)}`),
      { kind: "answer", status: 200, body: undefined },
    ],
    [
      "sends 64 KiB is read",
      (socket) => socket.end(`HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n${"a".repeat(65_536)}`),
      { kind: "answer", status: 200, body: "a".repeat(65_536) },
    ],
    [
      "breaks off has answered",
      (socket) => socket.end("HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc"),
      { kind: "answer", status: 202, body: undefined },
    ],
    ["speaks no HTTP has failed", (socket) => socket.end("-ERR unknown command\r\n"), { kind: "failed" }],
    ["hangs up has failed", (socket) => socket.destroy(), { kind: "failed" }],
    [
      "sends headers for ever has failed",
      (socket) => {
        socket.write("HTTP/1.1 200 OK\r\n");
        pour(socket, `x: ${"a".repeat(8_000)}\r\n`);
      },
      { kind: "failed" },
    ],
  ])("that %s", async (_, answer, expected) => {
    expect(await limited(await peer(answer))).toMatchObject(expected);
  });

  test.each<[string, (socket: Socket) => void]>([
    ["says nothing", () => undefined],
    ["only promises", (socket) => pour(socket, "HTTP/1.1 103 Early Hints\r\n\r\n", 1)],
  ])("that %s is left when the caller has enough", async (_, answer) => {
    const startedMs = performance.now();
    expect(await limited(await peer(answer), 300)).toBe("TimeoutError");
    // Our own limit is 10 s.
    expect(performance.now() - startedMs).toBeLessThan(8_000);
  });

  test("that says nothing is given its time, and one that drips its body too", async () => {
    const { post } = open({ timeoutMs: 500 });
    const silent = await peer(() => undefined);
    const dripping = await peer((socket) => {
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
      pour(socket, "a", 200);
    });
    expect(await post(silent)).toEqual({ kind: "failed", reason: "no answer within 500 ms" });
    // Of a busy machine's half a second the head may need it all.
    await eventually(async () => expect(await post(dripping)).toMatchObject({ status: 200, body: undefined }));
  });

  test("that zips its answer is not unzipped", async () => {
    const bomb = Bun.gzipSync("a".repeat(10_000_000));
    const url = await peer((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ${bomb.length}\r\n\r\n`);
      socket.end(bomb);
    });
    const result = (await limited(url)) as { body?: string };
    expect(result.body?.length).toBeLessThan(20_000);
  });

  test.each<[string, number | undefined]>([
    ["7", 7_000],
    ["99999999", 3_600_000],
    ["-1", undefined],
    ["soon", undefined],
    ["a date in 30 s", 30_000],
    ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
  ])("that says Retry-After: %s", async (given, expected) => {
    const header = given === "a date in 30 s" ? new Date(Date.now() + 30_000).toUTCString() : given;
    const url = await peer((socket) =>
      socket.end(`HTTP/1.1 429 X\r\nRetry-After: ${header}\r\nContent-Length: 0\r\n\r\n`),
    );
    const result = await limited(url);
    if (typeof result === "string" || result.kind !== "answer") throw new Error("no answer");
    // A date comes nearer while the answer is on its way.
    if (given === "a date in 30 s") expect(result.retryAfterMs).toBeWithin(20_000, 30_001);
    else expect(result.retryAfterMs).toBe(expected);
  });

  test("that closed an idle connection is called anew", async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections += 1;
      socket.on("error", () => undefined);
      socket.once("data", () => {
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        // The second request on this connection finds it reset.
        socket.on("data", () => socket.resetAndDestroy());
      });
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
    const { post } = open();
    for (let i = 0; i < 3; i++) expect(await post(url)).toMatchObject({ kind: "answer", status: 200 });
    expect(connections).toBeGreaterThan(1);
  });
});

describe("a host that does not answer", () => {
  test("is left alone after five times, tried by one call, and called again when it answers", async () => {
    const port = freePort();
    const url = `http://127.0.0.1:${port}/`;
    // Who asks again after the second in which it is left alone tries it: that says nothing, and all begins anew.
    const { post, afterMs } = await eventually(async () => {
      const { post } = open();
      const failures = await Promise.all(Array.from({ length: 16 }, () => post(url)));
      for (const failure of failures) expect(failure).toEqual({ kind: "failed", reason: "ECONNREFUSED" });
      const dark = await post(url);
      if (dark.kind !== "later") throw new Error(`it was called: ${JSON.stringify(dark)}`);
      // However many failed at once, it is the first time.
      expect(dark.afterMs).toBeLessThanOrEqual(1_000);
      return { post, afterMs: dark.afterMs };
    });
    // Another host is not meant.
    const other = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("", { status: 500 }) });
    expect(await post(`http://127.0.0.1:${other.port}/`)).toMatchObject({ kind: "answer", status: 500 });
    let calls = 0;
    const back = Bun.serve({
      hostname: "127.0.0.1",
      port,
      async fetch() {
        calls += 1;
        await Bun.sleep(50);
        return new Response("", { status: 500 });
      },
    });
    await Bun.sleep(afterMs);
    const results = await Promise.all([post(url), post(url), post(url)]);
    expect(results.map(({ kind }) => kind).sort()).toEqual(["answer", "later", "later"]);
    expect(calls).toBe(1);
    for (let i = 0; i < 10; i++) expect(await post(url)).toMatchObject({ kind: "answer", status: 500 });
    await Promise.all([back.stop(true), other.stop(true)]);
  });

  test("holds 16 calls and lets others wait; a caller who leaves the queue leaves no place behind", async () => {
    let most = 0;
    let now = 0;
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch() {
        now += 1;
        most = Math.max(most, now);
        await Bun.sleep(20);
        now -= 1;
        return new Response();
      },
    });
    const url = `http://127.0.0.1:${server.port}/`;
    const { post } = open();
    const leaving = new AbortController();
    const results = Array.from({ length: 100 }, (_, i) =>
      post(url, i % 3 === 2 ? leaving.signal : never).catch(() => "left"),
    );
    leaving.abort();
    const kinds = (await Promise.all(results)).map((result) => (typeof result === "string" ? result : result.kind));
    expect(kinds.filter((kind) => kind === "answer").length).toBeGreaterThanOrEqual(67);
    expect(most).toBeLessThanOrEqual(16);
    expect(await post(url)).toMatchObject({ kind: "answer" });
    await server.stop(true);
  });
});

test("the signature is the one that the specification gives as an example, and one per secret", () => {
  const body = '{"event_type":"ping","data":{"success":true}}';
  const call = { id: "msg_loFOjxBNrRLzqYUf", nowMs: 1_731_705_121_999, body };
  const secret = "whsec_plJ3nmyCDGBKInavdOK15jsl";
  expect(signWebhook({ ...call, secrets: [secret] })).toEqual({
    "webhook-id": call.id,
    "webhook-timestamp": "1731705121",
    "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
  });
  const both = signWebhook({ ...call, secrets: ["a plain one", secret] })["webhook-signature"]!;
  expect(both.split(" ")).toHaveLength(2);
  expect(both).toEndWith("v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
});

/** The raw client against Bun's own WebSocket server: frames of all three length forms, whole and in pieces, and the ends. */

import { expect, test } from "bun:test";
import { createSendTemplate, readFrame } from "../../scripts/load/frames.ts";
import { createLatencies } from "../../scripts/load/latencies.ts";
import { encodeFrame, openWire } from "../../scripts/load/wire.ts";
import { eventually } from "../support/eventually.ts";

function startEcho() {
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
      return server.upgrade(request) ? undefined : new Response("no", { status: 400 });
    },
    websocket: {
      maxPayloadLength: 1024 * 1024,
      message(socket, text) {
        if (text === "bye") socket.close(4000, "draining");
        else socket.send(text);
      },
    },
  });
}

test("frames of every length come back whole and in order", async () => {
  const server = startEcho();
  const sent = [0, 1, 125, 126, 300, 65_535, 65_536, 200_000].map((length) => "x".repeat(length));
  const received: string[] = [];
  const wire = openWire(`ws://127.0.0.1:${server.port}/`, {
    open: () => {
      for (const text of sent) wire.write(encodeFrame(text));
    },
    frame: (chunk, start, end) => void received.push(chunk.toString("utf8", start, end)),
    close: () => undefined,
  });
  await eventually(() => expect(received.length).toBe(sent.length));
  expect(received).toEqual(sent);
  wire.destroy();
  await server.stop(true);
});

test("a close frame gives its code and reason, once", async () => {
  const server = startEcho();
  const closes: string[] = [];
  const wire = openWire(`ws://127.0.0.1:${server.port}/`, {
    open: () => wire.write(encodeFrame("bye")),
    frame: () => undefined,
    close: (code, reason) => void closes.push(`${code} ${reason}`),
  });
  await eventually(() => expect(closes).toEqual(["4000 draining"]));
  await server.stop(true);
});

test("a refused connection is a close with 1006", async () => {
  const closes: number[] = [];
  openWire("ws://127.0.0.1:1/", {
    open: () => undefined,
    frame: () => undefined,
    close: (code) => void closes.push(code),
  });
  await eventually(() => expect(closes).toEqual([1006]));
});

const payloadOf = (frame: Buffer) => frame.toString("utf8", frame.indexOf("{"));
const read = (text: string) => {
  const chunk = Buffer.from(`....${text}`);
  return { ...readFrame(chunk, 4, chunk.length) };
};

test("a template is a valid request whose number is found again in the reply and the notification", () => {
  const template = createSendTemplate("r1", "conversation-1", 100);
  const request = JSON.parse(payloadOf(template.frame(42)));
  expect(request).toMatchObject({
    jsonrpc: "2.0",
    method: "message.send",
    params: { conversation: "conversation-1", clientId: `r1-${request.id}` },
  });
  const { text } = request.params.body;
  expect(text).toHaveLength(100);
  expect(read(JSON.stringify({ jsonrpc: "2.0", id: request.id, result: {} }))).toMatchObject({ kind: "ack", n: 42 });
  const message = { seq: 7, id: "M", body: { text } };
  const notification = JSON.stringify({ jsonrpc: "2.0", method: "message", params: { message } });
  expect(read(notification)).toMatchObject({ kind: "message", n: 42 });
  expect(read(notification.replace('"seq":7', '"seq":12345'))).toMatchObject({ kind: "message", n: 42 });
});

test("an error reply is a refusal, and other frames are other", () => {
  const { id } = JSON.parse(payloadOf(createSendTemplate("r1", "c", 20).frame(3)));
  const refusal = read(JSON.stringify({ jsonrpc: "2.0", id, error: { code: 1, message: "no" } }));
  expect(refusal).toMatchObject({ kind: "refused", n: 3 });
  expect(read(JSON.stringify({ jsonrpc: "2.0", method: "read", params: {} })).kind).toBe("other");
  expect(read(JSON.stringify({ jsonrpc: "2.0", id: 1, result: {} })).kind).toBe("other");
});

test("percentiles are right within the buckets' 2 %", () => {
  const latencies = createLatencies();
  for (let i = 1; i <= 1_000; i++) latencies.record(i / 10);
  const { count, p50, p99, max } = latencies.percentiles();
  expect(count).toBe(1_000);
  expect(Math.abs(p50 - 50) / 50).toBeLessThan(0.03);
  expect(Math.abs(p99 - 99) / 99).toBeLessThan(0.03);
  expect(max).toBe(100);
});

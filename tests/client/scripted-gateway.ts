/**
 * The other end of the wire for the client's own tests: a real WebSocket server that does what the test says, frame by frame,
 * so that faults happen when they are wanted. Skein's gateway itself is met in tests/workers.
 */

import type { Server, ServerWebSocket } from "bun";

export interface Frame {
  id: number | string;
  method: string;
  params: Record<string, unknown>;
}

/** By token; every other token is refused. */
const USERS: ReadonlyMap<unknown, string> = new Map([
  ["good", "alice"],
  ["good of bob", "bob"],
]);

export class Connection {
  readonly socket: ServerWebSocket<unknown>;
  constructor(socket: ServerWebSocket<unknown>) {
    this.socket = socket;
  }
  answer(frame: Frame, result: unknown): void {
    this.socket.send(JSON.stringify({ jsonrpc: "2.0", id: frame.id, result }));
  }
  refuse(frame: Frame, code: string, more: { retryable?: boolean; retryAfterMs?: number } = {}): void {
    const data = { code, retryable: false, ...more };
    this.socket.send(JSON.stringify({ jsonrpc: "2.0", id: frame.id, error: { code: -32000, message: code, data } }));
  }
  notify(method: string, params: unknown): void {
    this.socket.send(JSON.stringify({ jsonrpc: "2.0", method, params }));
  }
  message(seq: number, text = `text ${seq}`, from = "bob"): void {
    this.notify("message", { message: messageOf(seq, text, from) });
  }
}

export function messageOf(seq: number, text = `text ${seq}`, from = "bob", conversation = "c1") {
  return { id: `id-${seq}`, conversation, seq, from, type: "text", body: { text }, sentAt: 1_000 + seq };
}

export function entryOf(seq: number) {
  return { kind: "message", seq, id: `id-${seq}`, message: messageOf(seq) };
}

export function synced(verdict: string, seqs: readonly number[], more: Record<string, unknown> = {}) {
  const entries = seqs.map(entryOf);
  const head = seqs.at(-1) ?? 0;
  return { conversation: "c1", verdict, epoch: "e1", head, read: 0, unread: 0, entries, more: false, ...more };
}

export interface ScriptedGateway extends Disposable {
  readonly url: string;
  readonly connections: Connection[];
  /** Every frame but session.open that arrived, over all connections. */
  readonly frames: Frame[];
  of(method: string): Frame[];
}

/** `script` sees every frame except session.open and session.ping, which are answered; sync too unless `script` returns true. */
export function startScriptedGateway(
  script: (frame: Frame, connection: Connection) => boolean | undefined = () => undefined,
  heartbeatMs = 25_000,
): ScriptedGateway {
  const connections: Connection[] = [];
  const frames: Frame[] = [];
  const server: Server<undefined> = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request, server) =>
      server.upgrade(request, { data: undefined }) ? undefined : new Response(null, { status: 400 }),
    websocket: {
      open: (socket) => void connections.push(new Connection(socket)),
      message(socket, data) {
        const connection = connections.find((candidate) => candidate.socket === socket)!;
        const frame = JSON.parse(String(data)) as Frame;
        if (frame.method === "session.open") {
          const user = USERS.get(frame.params.token);
          if (user === undefined) return connection.refuse(frame, "UNAUTHENTICATED");
          const session = { user, connection: "x", ackLevel: "disk", serverTime: 0, limits: {}, heartbeatMs };
          return connection.answer(frame, session);
        }
        frames.push(frame);
        if (script(frame, connection)) return;
        if (frame.method === "sync") connection.answer(frame, { conversations: [] });
        if (frame.method === "session.ping") connection.answer(frame, {});
      },
    },
  });
  return {
    url: `ws://127.0.0.1:${server.port}/v1/ws`,
    connections,
    frames,
    of: (method) => frames.filter((frame) => frame.method === method),
    [Symbol.dispose]: () => void server.stop(true),
  };
}

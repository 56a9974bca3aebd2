/** The authenticated connections of a load process, opened a bounded number at a time, and the one place that reads their frames. */

import { type Incoming, readFrame } from "./frames.ts";
import { encodeFrame, openWire, type Wire } from "./wire.ts";

/** Handshakes under way at once: below the listen backlog, and polite to the gateway's admission. */
const CONNECTING_MAX = 64;

export interface SocketHandlers {
  frame(incoming: Incoming): void;
  /** After all frames of one chunk. */
  idle(): void;
  lost(reason: string): void;
}

export interface Sockets {
  readonly wires: readonly Wire[];
  /** Replaced by each run. */
  handlers: SocketHandlers;
  close(): void;
}

interface Given {
  readonly url: string;
  readonly token: string;
}

/** Opens all and waits for each `session.open`. Rejects when one is refused. */
export async function openSockets(given: readonly Given[]): Promise<Sockets> {
  const wires: Wire[] = new Array(given.length);
  const sockets: Sockets = {
    wires,
    handlers: { frame: () => undefined, idle: () => undefined, lost: () => undefined },
    close() {
      sockets.handlers = { ...sockets.handlers, lost: () => undefined };
      for (const wire of wires) wire.destroy();
    },
  };
  let next = 0;
  const opener = async () => {
    while (next < given.length) {
      const index = next++;
      wires[index] = await openOne(given[index]!, sockets);
    }
  };
  await Promise.all(Array.from({ length: Math.min(CONNECTING_MAX, given.length) }, opener));
  return sockets;
}

function openOne({ url, token }: Given, sockets: Sockets): Promise<Wire> {
  return new Promise((resolve, reject) => {
    let isReady = false;
    const wire = openWire(url, {
      open: () =>
        wire.write(encodeFrame(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "session.open", params: { token } }))),
      frame(chunk, start, end) {
        if (isReady) {
          sockets.handlers.frame(readFrame(chunk, start, end));
          return;
        }
        const reply = JSON.parse(chunk.toString("utf8", start, end)) as { id?: number; error?: { message: string } };
        if (reply.id !== 1) return;
        if (reply.error) reject(new Error(`session.open was refused: ${reply.error.message}`));
        isReady = true;
        resolve(wire);
      },
      idle: () => sockets.handlers.idle(),
      close(code, reason) {
        const text = `connection closed with ${code} ${reason}`;
        if (isReady) sockets.handlers.lost(text);
        else reject(new Error(text));
      },
    });
  });
}

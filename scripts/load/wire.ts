/**
 * The leanest WebSocket client that speaks protocol.md: a raw TCP socket, frames cut by their header bytes, payloads handed on
 * as a range of the chunk they came in. A load generator shares the machine with what it measures, so what it costs is
 * measured too; the built-in WebSocket costs about four times as much per frame.
 *
 * Sent frames carry the mask key 0, which RFC 6455 allows and which leaves the payload as it is. No extensions, no
 * fragments: Skein sends neither.
 */

const TEXT = 0x1;
const CLOSE = 0x8;
const PING = 0x9;
const PONG = 0xa;
/** A handshake answer longer than this is not one. */
const HANDSHAKE_BYTES_MAX = 8_192;
const HEADER_END = "\r\n\r\n";

export interface WireHandlers {
  /** The handshake is done. */
  open(): void;
  /** One text frame: bytes `start` to `end` of `chunk`, valid during the call only. */
  frame(chunk: Buffer, start: number, end: number): void;
  /** A chunk is worked off: the moment to flush what its frames asked to send. */
  idle?(): void;
  /** Exactly once. `code` is 1006 when the peer sent no close frame. */
  close(code: number, reason: string): void;
}

export interface Wire {
  write(frame: Uint8Array): void;
  /** Drops the connection without a close frame. */
  destroy(): void;
}

/** A client text frame with the mask key 0. The payload begins at `frame.length - payload length`. */
export function encodeFrame(payload: string | Uint8Array, opcode = TEXT): Buffer {
  const body = typeof payload === "string" ? Buffer.from(payload) : payload;
  const lengthBytes = body.length < 126 ? 0 : body.length < 65_536 ? 2 : 8;
  const frame = Buffer.alloc(2 + lengthBytes + 4 + body.length);
  frame[0] = 0x80 | opcode;
  if (lengthBytes === 0) frame[1] = 0x80 | body.length;
  else if (lengthBytes === 2) {
    frame[1] = 0x80 | 126;
    frame.writeUInt16BE(body.length, 2);
  } else {
    frame[1] = 0x80 | 127;
    frame.writeBigUInt64BE(BigInt(body.length), 2);
  }
  frame.set(body, frame.length - body.length);
  return frame;
}

/** Connects to `url` (ws://host:port/path). Failure to connect is a `close` with 1006. */
export function openWire(url: string, handlers: WireHandlers): Wire {
  const { hostname, port, pathname, host } = new URL(url);
  let rest: Buffer | undefined;
  let isOpen = false;
  let isClosed = false;
  let socket: Bun.Socket | undefined;
  let unsent: Buffer[] = [];

  const closed = (code: number, reason: string) => {
    if (isClosed) return;
    isClosed = true;
    socket?.terminate();
    handlers.close(code, reason);
  };

  const write = (bytes: Uint8Array) => {
    if (isClosed || !socket) return;
    const written = unsent.length > 0 ? 0 : Math.max(0, socket.write(bytes));
    if (written < bytes.length) unsent.push(Buffer.from(bytes.subarray(written)));
  };

  const drain = () => {
    const waiting = unsent;
    unsent = [];
    for (const bytes of waiting) write(bytes);
  };

  /** Cuts the chunk into frames; returns how many bytes were used. */
  const cut = (chunk: Buffer): number => {
    let at = 0;
    while (chunk.length - at >= 2 && !isClosed) {
      let length = chunk[at + 1]! & 0x7f;
      let start = at + 2;
      if (length === 126) {
        if (chunk.length - at < 4) break;
        length = chunk.readUInt16BE(at + 2);
        start = at + 4;
      } else if (length === 127) {
        if (chunk.length - at < 10) break;
        length = Number(chunk.readBigUInt64BE(at + 2));
        start = at + 10;
      }
      const end = start + length;
      if (end > chunk.length) break;
      const opcode = chunk[at]! & 0x0f;
      if (opcode === TEXT) handlers.frame(chunk, start, end);
      else if (opcode === PING) write(encodeFrame(chunk.subarray(start, end), PONG));
      else if (opcode === CLOSE) {
        const code = length >= 2 ? chunk.readUInt16BE(start) : 1005;
        closed(code, length > 2 ? chunk.toString("utf8", start + 2, end) : "");
      }
      at = end;
    }
    return at;
  };

  /** Returns what follows the handshake's answer, or nothing when it is not complete or was refused. */
  const shake = (chunk: Buffer): Buffer | undefined => {
    const end = chunk.indexOf(HEADER_END);
    if (end < 0) {
      if (chunk.length > HANDSHAKE_BYTES_MAX) closed(1006, "the handshake's answer is too long");
      else rest = chunk;
      return undefined;
    }
    const head = chunk.toString("latin1", 0, end);
    if (!/^HTTP\/1\.1 101 /.test(head)) {
      closed(1006, head.split("\r\n", 1)[0] ?? "");
      return undefined;
    }
    isOpen = true;
    handlers.open();
    return chunk.subarray(end + HEADER_END.length);
  };

  const receive = (data: Buffer) => {
    let chunk: Buffer | undefined = rest ? Buffer.concat([rest, data]) : data;
    rest = undefined;
    if (!isOpen) chunk = shake(chunk);
    if (!chunk) return;
    const used = cut(chunk);
    if (used < chunk.length && !isClosed) rest = Buffer.from(chunk.subarray(used));
    handlers.idle?.();
  };

  Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open(opened) {
        socket = opened;
        if (isClosed) {
          opened.terminate();
          return;
        }
        opened.setNoDelay(true);
        const key = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("base64");
        opened.write(
          `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
            `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
        );
      },
      data: (_, data) => receive(data),
      drain,
      close: () => closed(1006, ""),
      error: (_, error) => closed(1006, error.message),
      connectError: (_, error) => closed(1006, error.message),
    },
  }).catch((error: Error) => closed(1006, error.message));

  return { write, destroy: () => closed(1006, "destroyed") };
}

/** A WebSocket by hand: every byte after the handshake is the test's, and it may stop reading. */

import { connect, type Socket } from "node:net";

export interface RawSocket extends Disposable {
  /** An unfragmented frame, masked as clients must unless told otherwise. */
  send(
    payload: string | Uint8Array,
    options?: { opcode?: number; isFinal?: boolean; isMasked?: boolean; reserved?: number },
  ): void;
  bytes(bytes: Uint8Array): void;
  /** Stops taking bytes from the kernel. */
  pause(): void;
  resume(): void;
  /** Payloads of the text frames so far. */
  readonly texts: string[];
  /** The close frame's code, 1006 when the peer just went. */
  readonly closed: Promise<number>;
}

export function openRawSocket(port: number): Promise<RawSocket> {
  const socket = connect(port, "127.0.0.1");
  const texts: string[] = [];
  let closeCode = 1006;
  let rest = Buffer.alloc(0);
  let isOpen = false;
  const closed = new Promise<number>((resolve) => {
    socket.on("close", () => resolve(closeCode));
  });
  return new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("connect", () => {
      socket.write(
        "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
      );
    });
    socket.on("data", (data: Buffer) => {
      rest = Buffer.concat([rest, data]);
      if (!isOpen) {
        const end = rest.indexOf("\r\n\r\n");
        if (end < 0) return;
        if (!rest.toString("latin1", 0, end).startsWith("HTTP/1.1 101"))
          reject(new Error(rest.toString("latin1", 0, end)));
        rest = rest.subarray(end + 4);
        isOpen = true;
        resolve(raw);
      }
      readFrames();
    });
    const readFrames = () => {
      for (;;) {
        const frame = cutFrame(rest);
        if (!frame) return;
        rest = rest.subarray(frame.end);
        if (frame.opcode === 1) texts.push(frame.payload.toString());
        if (frame.opcode === 8) closeCode = frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : 1005;
        if (frame.opcode === 8) socket.end();
      }
    };
    const raw: RawSocket = {
      texts,
      closed,
      send: (payload, options) => writeFrame(socket, Buffer.from(payload), options),
      bytes: (bytes) => void socket.write(bytes),
      pause: () => void socket.pause(),
      resume: () => void socket.resume(),
      [Symbol.dispose]: () => void socket.destroy(),
    };
  });
}

function writeFrame(
  socket: Socket,
  payload: Buffer,
  { opcode = 1, isFinal = true, isMasked = true, reserved = 0 }: Parameters<RawSocket["send"]>[1] = {},
): void {
  const head = [(isFinal ? 0x80 : 0) | (reserved << 4) | opcode];
  const mask = isMasked ? 0x80 : 0;
  if (payload.length < 126) head.push(mask | payload.length);
  else if (payload.length < 65_536) head.push(mask | 126, payload.length >> 8, payload.length & 0xff);
  else {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(payload.length));
    head.push(mask | 127, ...length);
  }
  // The mask key 0 leaves the payload as it is.
  socket.write(Buffer.concat([Buffer.from(head), isMasked ? Buffer.alloc(4) : Buffer.alloc(0), payload]));
}

function cutFrame(bytes: Buffer): { opcode: number; payload: Buffer; end: number } | undefined {
  if (bytes.length < 2) return undefined;
  let length = bytes[1]! & 0x7f;
  let start = 2;
  if (length === 126) {
    if (bytes.length < 4) return undefined;
    length = bytes.readUInt16BE(2);
    start = 4;
  } else if (length === 127) {
    if (bytes.length < 10) return undefined;
    length = Number(bytes.readBigUInt64BE(2));
    start = 10;
  }
  if (bytes.length < start + length) return undefined;
  return { opcode: bytes[0]! & 0x0f, payload: bytes.subarray(start, start + length), end: start + length };
}

/** One HTTP exchange, byte for byte as given: for what a well-behaved client would never send. */

import { WITHIN_MS } from "./eventually.ts";

export interface RawAnswer {
  /** Undefined: closed without an answer. */
  readonly status: number | undefined;
  readonly text: string;
}

/** Sends `bytes` and resolves with the answer's head as soon as it is there, or when the peer closes, or after `withinMs`. */
export function rawHttp(port: number, bytes: string | Uint8Array, withinMs = WITHIN_MS): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    let text = "";
    const timer = setTimeout(() => finish(), withinMs);
    let opened: Bun.Socket | undefined;
    const finish = () => {
      clearTimeout(timer);
      opened?.terminate();
      const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1];
      resolve({ status: status === undefined ? undefined : Number(status), text });
    };
    Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        open(socket) {
          opened = socket;
          socket.write(bytes);
        },
        data(_, data) {
          text += data.toString("latin1");
          if (text.includes("\r\n\r\n")) finish();
        },
        close: finish,
        error: finish,
      },
    }).catch(reject);
  });
}

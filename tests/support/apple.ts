/** Apple's push service on loopback: HTTP/2, answers in turn (the last one from then on), and keeps what it was sent. */

import { createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";

export type AppleAnswer = readonly [status: number, reason?: string, headers?: Record<string, string>];

export async function openApple(...answers: readonly AppleAnswer[]) {
  const seen: { headers: Record<string, unknown>; body: string }[] = [];
  const server = createServer();
  server.on("stream", (stream: ServerHttp2Stream, headers) => {
    let body = "";
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      body += chunk;
    });
    stream.on("end", () => {
      seen.push({ headers, body });
      const [status, reason, more] = answers[Math.min(seen.length, answers.length) - 1]!;
      stream.respond({ ":status": status, "apns-id": "1", ...more });
      stream.end(reason === undefined ? "" : JSON.stringify({ reason }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    close: () => server.close(),
  };
}

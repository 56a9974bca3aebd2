/** A receiver of webhooks: it keeps what came, checks the signature as its owner would, and answers as told. */

import { createHmac } from "node:crypto";

export interface Received {
  readonly id: string;
  readonly event: {
    readonly id: string;
    readonly data: unknown;
    readonly partitionkey?: string;
    readonly source: string;
  };
  readonly headers: Headers;
  readonly body: string;
  /** Which of the secrets the signatures fit. */
  readonly signedBy: readonly string[];
  readonly atMs: number;
}

export interface Receiver extends AsyncDisposable {
  readonly url: string;
  readonly calls: readonly Received[];
}

export interface ReceiverOptions {
  readonly secrets: readonly string[];
  /** Status and headers of an answer; default 204. A promise holds the call. */
  readonly answer?: (call: Received, count: number) => Response | Promise<Response>;
  readonly port?: number;
}

export function openReceiver({
  secrets,
  answer = () => new Response(null, { status: 204 }),
  port = 0,
}: ReceiverOptions): Receiver {
  const calls: Received[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port,
    async fetch(request) {
      const body = await request.text();
      const call: Received = {
        id: request.headers.get("webhook-id") ?? "",
        event: JSON.parse(body),
        headers: request.headers,
        body,
        signedBy: secrets.filter((secret) => isSignedBy(secret, request.headers, body)),
        atMs: performance.now(),
      };
      calls.push(call);
      return answer(call, calls.length);
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}/hook`,
    calls,
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

function isSignedBy(secret: string, headers: Headers, body: string): boolean {
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : secret;
  const signed = `${headers.get("webhook-id")}.${headers.get("webhook-timestamp")}.${body}`;
  const expected = `v1,${createHmac("sha256", key).update(signed).digest("base64")}`;
  const ageS = Date.now() / 1_000 - Number(headers.get("webhook-timestamp"));
  return Math.abs(ageS) < 300 && (headers.get("webhook-signature") ?? "").split(" ").includes(expected);
}

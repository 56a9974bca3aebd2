/**
 * A browsers' push service on loopback: it keeps what is pushed to each of its subscriptions, decrypted, and answers as told.
 */

import { makeBrowser } from "./browser.ts";

export interface Pushed {
  /** Of the subscription. */
  readonly name: string;
  readonly said: Readonly<Record<"id" | "title" | "text", string>> & {
    readonly seq?: number;
    readonly unread?: number;
  };
  readonly headers: Headers;
}

export interface PushService extends AsyncDisposable {
  readonly pushed: readonly Pushed[];
  /** A browser's subscription, as `PushSubscription.toJSON()` gives it. */
  subscribe(name: string): object;
  /** What was pushed to a subscription. */
  of(name: string): readonly Pushed[];
  /** What the subscription's next pushes are answered with, in turn; then 201. A promise holds the call. */
  answer(name: string, ...answers: readonly (Response | Promise<Response>)[]): void;
}

export function openPushService(): PushService {
  const browsers = new Map<string, ReturnType<typeof makeBrowser>>();
  const answers = new Map<string, (Response | Promise<Response>)[]>();
  const pushed: Pushed[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const name = new URL(request.url).pathname.slice(1);
      const said = JSON.parse(browsers.get(name)!.decrypt(Buffer.from(await request.arrayBuffer())));
      pushed.push({ name, said, headers: request.headers });
      return answers.get(name)?.shift() ?? new Response(null, { status: 201 });
    },
  });
  return {
    pushed,
    subscribe(name) {
      const browser = makeBrowser(`http://127.0.0.1:${server.port}/${name}`);
      browsers.set(name, browser);
      return { ...browser.subscription, expirationTime: null };
    },
    of: (name) => pushed.filter((push) => push.name === name),
    answer(name, ...given) {
      answers.set(name, [...given]);
    },
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

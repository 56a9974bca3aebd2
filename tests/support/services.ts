/** A service of another language at the HTTP of real gateways: calls with a key, and what they answered. */

import { openTestChat, type TestChat } from "./chat.ts";
import { openTestStore, type TestStore } from "./redis.ts";

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** The body when it is JSON, else its text; undefined when there is none. */
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers of every shape
  readonly body: any;
}

export interface CallOptions {
  /** Authorization as it is sent, e.g. of a user; null: none. Default: the bootstrap key's. */
  readonly authorization?: string | null;
  /** The gateway to ask; default the first. */
  readonly gateway?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface TestServices extends AsyncDisposable {
  readonly store: TestStore;
  readonly chat: TestChat;
  /** `call("POST", "/v1/topics/orders/messages", { messages: [] })` */
  call(method: string, path: string, body?: unknown, options?: CallOptions): Promise<Answer>;
  /** Authorization of a new service key with the scopes. */
  keyWith(...scopes: string[]): Promise<string>;
  /** The same of a user's token. */
  userToken(user?: string): Promise<string>;
}

export async function openTestServices(
  name: string,
  { gateways = 1, env = {} }: { gateways?: number; env?: Record<string, string> } = {},
): Promise<TestServices> {
  const store = await openTestStore(name, { partitions: 4 });
  const chat = await openTestChat(store, { gateways, env });
  const services: TestServices = {
    store,
    chat,
    async call(method, path, body, options = {}) {
      const { authorization = `Bearer ${chat.serviceKey}`, gateway = 0, headers = {}, signal } = options;
      const response = await fetch(chat.gateways[gateway]!.url + path, {
        method,
        headers: {
          ...(authorization === null ? {} : { authorization }),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
        ...(signal ? { signal } : {}),
      });
      const text = await response.text();
      const isJson = response.headers.get("content-type")?.includes("json") ?? false;
      return {
        status: response.status,
        headers: response.headers,
        body: text === "" ? undefined : isJson ? JSON.parse(text) : text,
      };
    },
    async keyWith(...scopes) {
      const { status, body } = await services.call("POST", "/v1/service-keys", { scopes });
      if (status !== 201) throw new Error(`no key: ${status} ${JSON.stringify(body)}`);
      return `Bearer ${body.key}`;
    },
    userToken: async (user = "ada") => `Bearer ${await chat.token(user)}`,
    async [Symbol.asyncDispose]() {
      await chat[Symbol.asyncDispose]();
      await store[Symbol.asyncDispose]();
    },
  };
  return services;
}

/** The few HTTP calls by which bench and chaos prepare and check a Skein from outside: tokens, conversations, history, readiness. */

export interface ApiOptions {
  /** http://host:port of a gateway. */
  readonly url: string;
  readonly serviceKey: string;
}

export interface HistoryMessage {
  readonly id: string;
  readonly seq: number;
  readonly from: string;
  readonly body: { readonly text: string };
}

export interface HistoryPage {
  readonly epoch: string;
  readonly head: number;
  readonly messages: readonly HistoryMessage[];
  readonly more: boolean;
}

export interface Api {
  token(user: string): Promise<string>;
  /** Returns its id. Another member or the same call again finds the same conversation. */
  createConversation(by: string, params: object): Promise<string>;
  /** As a member who may, at most 100 at once. */
  addMembers(by: string, conversation: string, users: readonly string[]): Promise<void>;
  history(by: string, conversation: string, after: number, limit: number): Promise<HistoryPage>;
}

/** Calls of a preparation under way at once. */
const PARALLEL = 32;
const TIMEOUT_MS = 10_000;

export function createApi({ url, serviceKey }: ApiOptions): Api {
  async function call<T>(method: string, path: string, { by, body }: { by?: string; body?: object } = {}): Promise<T> {
    const response = await fetch(url + path, {
      method,
      headers: {
        authorization: `Bearer ${serviceKey}`,
        ...(by === undefined ? {} : { "skein-user": by }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return (await response.json()) as T;
  }

  return {
    async token(user) {
      return (await call<{ token: string }>("POST", "/v1/tokens", { body: { user, ttlSeconds: 24 * 3_600 } })).token;
    },
    async createConversation(by, params) {
      const { conversation } = await call<{ conversation: { id: string } }>("POST", "/v1/conversations", {
        by,
        body: params,
      });
      return conversation.id;
    },
    async addMembers(by, conversation, users) {
      await call("POST", `/v1/conversations/${conversation}/members`, { by, body: { users } });
    },
    history: (by, conversation, after, limit) =>
      call("GET", `/v1/conversations/${conversation}/messages?after=${after}&limit=${limit}`, { by }),
  };
}

/** Runs `task` for every item, a bounded number at a time; results in the items' order. The first error ends it. */
export async function inParallel<I, O>(
  items: readonly I[],
  task: (item: I, index: number) => Promise<O>,
): Promise<O[]> {
  const results: O[] = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await task(items[index]!, index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, items.length) }, worker));
  return results;
}

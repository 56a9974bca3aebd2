/**
 * A raw WebSocket that speaks JSON-RPC: what a client sees, frame by frame. The library for apps is lib/client. Every notification
 * that any test is sent must be one of those that /asyncapi.json describes, in the shape that it describes.
 */

import * as v from "valibot";
import { NOTIFICATIONS } from "../../workers/gateway/async-api.ts";
import { WITHIN_MS } from "./eventually.ts";

export interface RpcError {
  readonly code: number;
  readonly message: string;
  readonly data: {
    readonly code: string;
    readonly retryable: boolean;
    readonly retryAfterMs?: number;
    readonly issues?: readonly { readonly path: string; readonly message: string }[];
  };
}

/** A frame as it came. */
export interface Frame {
  readonly jsonrpc?: string;
  readonly id?: number | string | null;
  readonly method?: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read replies and notifications of every shape
  readonly params?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  readonly result?: any;
  readonly error?: RpcError;
}

export class ChatClient implements Disposable {
  /** Every notification in the order of arrival. */
  readonly notifications: Frame[] = [];
  /** Every other frame that answered no request of `request`. */
  readonly others: Frame[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  private readonly waiting = new Map<number | string, (frame: Frame) => void>();
  private readonly taken = new Map<string, number>();
  private wake: (() => void)[] = [];
  private closeCode: number | undefined;
  private lastId = 0;

  private constructor(readonly socket: WebSocket) {
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(String(data)) as Frame;
      const answered = frame.id === undefined || frame.id === null ? undefined : this.waiting.get(frame.id);
      if (answered) {
        this.waiting.delete(frame.id!);
        answered(frame);
      } else if (frame.method) {
        requireDescribed(frame);
        this.notifications.push(frame);
      } else this.others.push(frame);
      this.wakeAll();
    };
    this.closed = new Promise((resolve) => {
      socket.onclose = ({ code, reason }) => {
        resolve({ code, reason });
        this.closeCode = code;
        for (const answer of this.waiting.values()) answer({ error: closedError(code) });
        this.wakeAll();
      };
    });
  }

  /** Connects; rejects when the upgrade is refused. */
  static connect(url: string, headers: Record<string, string> = {}): Promise<ChatClient> {
    const socket = new WebSocket(url, { headers } as never);
    const client = new ChatClient(socket);
    return new Promise((resolve, reject) => {
      socket.onopen = () => resolve(client);
      void client.closed.then(({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`)));
    });
  }

  /** The whole answer, result or error. */
  call(method: string, params?: unknown): Promise<Frame> {
    if (this.closeCode !== undefined) return Promise.resolve({ error: closedError(this.closeCode) });
    this.lastId += 1;
    const id = this.lastId;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, ...(params === undefined ? {} : { params }) }));
    });
  }

  /** The result; throws the error's code and message. */
  async request(method: string, params?: unknown): Promise<Frame["result"]> {
    const { result, error } = await this.call(method, params);
    if (error) throw new Error(`${error.data.code}: ${error.message}`);
    return result;
  }

  /** Sends text as it is. */
  raw(text: string | Uint8Array<ArrayBuffer>): void {
    this.socket.send(text);
  }

  /** The next notification of the method that was not taken yet. */
  async next(method: string, withinMs = WITHIN_MS): Promise<Frame["params"]> {
    const skip = this.taken.get(method) ?? 0;
    this.taken.set(method, skip + 1);
    const found = await this.until(() => this.notifications.filter((frame) => frame.method === method)[skip], withinMs);
    if (!found) throw new Error(`no ${method} within ${withinMs} ms; got ${this.seen()}`);
    return found.params;
  }

  /** The next frame that is neither a notification nor an answer to `request`. */
  async nextOther(withinMs = WITHIN_MS): Promise<Frame> {
    const found = await this.until(() => this.others.shift(), withinMs);
    if (!found) throw new Error(`no frame within ${withinMs} ms; got ${this.seen()}`);
    return found;
  }

  close(): void {
    this.socket.close();
  }

  [Symbol.dispose](): void {
    this.socket.terminate();
  }

  private seen(): string {
    return this.notifications.map((frame) => frame.method).join(", ") || "nothing";
  }

  private async until<T>(find: () => T | undefined, withinMs: number): Promise<T | undefined> {
    const deadline = performance.now() + withinMs;
    for (;;) {
      const found = find();
      const leftMs = deadline - performance.now();
      if (found !== undefined || leftMs <= 0 || this.closeCode !== undefined) return found;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.wake.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  private wakeAll(): void {
    const waiting = this.wake;
    this.wake = [];
    for (const wake of waiting) wake();
  }
}

function closedError(code: number): RpcError {
  return { code: 0, message: `the socket closed with ${code}`, data: { code: "CLOSED", retryable: true } };
}

/** Throws, which fails the run, when a notification is not described. */
function requireDescribed({ method, params }: Frame): void {
  const schema = new Map<string, v.GenericSchema>(Object.entries(NOTIFICATIONS)).get(method!);
  if (!schema) throw new Error(`/asyncapi.json does not describe the notification ${method}`);
  const { issues = [] } = v.safeParse(schema, params);
  const faults = issues.map((issue) => `${v.getDotPath(issue)}: ${issue.message}`);
  if (faults.length > 0) throw new Error(`${method} is not as /asyncapi.json describes it: ${faults.join("; ")}`);
}

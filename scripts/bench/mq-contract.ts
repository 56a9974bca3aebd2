/** What a process of the queue's bench is told and what it answers, over Bun's IPC. Plain data: both sides compile against this file. */

/** `raw`: the bare stream commands; `skein`: lib/mq; `bullmq`: the peer. */
export type Kind = "raw" | "skein" | "bullmq";

export interface PublishOrder {
  readonly role: "publish";
  readonly kind: Kind;
  readonly url: string;
  /** Messages in one call. 1: a call per message, as a request handler does. */
  readonly batch: number;
  /** Messages without an answer. */
  readonly outstanding: number;
  /** Publish objects that the schema checks and JSON is made of, instead of JSON text as it is. */
  readonly isParsed: boolean;
  /** By turns. */
  readonly keys: number;
}

export interface ConsumeOrder {
  readonly role: "consume";
  readonly kind: Kind;
  readonly url: string;
  /** Groups in this process; each sees every message. */
  readonly groups: number;
  readonly mode: "concurrent" | "ordered";
  readonly handler: "batch" | "single";
  /** Handlers look at the data as the schema types it, instead of its text. */
  readonly isParsed: boolean;
  /** Jobs in hand of one BullMQ worker. */
  readonly concurrency: number;
  /** Counts of messages at which it says so, once every group has seen so many. */
  readonly marks: readonly number[];
  /** A key whose messages are not counted, and whether they always fail; "" for none. */
  readonly uncountedKey: string;
  readonly doesFail: boolean;
}

export type Order = PublishOrder | ConsumeOrder;

export type MqCommand =
  | { readonly type: "order"; readonly order: Order }
  /** Begin to consume, or publish so many more. */
  | { readonly type: "consume" }
  | { readonly type: "publish"; readonly messages: number };

export type MqEvent =
  | { readonly type: "ready" }
  /** All of the last `publish` are answered. */
  | { readonly type: "published" }
  | { readonly type: "reached"; readonly mark: number }
  | { readonly type: "failed"; readonly reason: string };

/** Publishes so many more messages and resolves when all are answered. */
export type Publisher = (messages: number) => Promise<void>;
/** Begins to consume; `seen(group, count)` is called as messages are handled. */
export type Consumer = (seen: (group: number, count: number) => void) => Promise<void>;

/** 100 bytes of JSON, the size that the goals are given for. */
export const TEXT = "x".repeat(89);
export const DATA = JSON.stringify({ text: TEXT });

export const keyName = (index: number): string => `key-${index}`;

/**
 * Calls `send` for `messages` in calls of `batch`, so that at most `outstanding` are without an answer. The last call is smaller
 * when the numbers do not divide.
 */
export async function inWindow(
  { batch, outstanding }: { readonly batch: number; readonly outstanding: number },
  messages: number,
  send: (count: number) => Promise<unknown>,
): Promise<void> {
  let sent = 0;
  const lane = async () => {
    while (sent < messages) {
      const count = Math.min(batch, messages - sent);
      sent += count;
      await send(count);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.floor(outstanding / batch)) }, lane));
}

/** lib/mq as its users have it: one queue per process, groups beside each other in it. */

import * as v from "valibot";
import { type ConsumeOptions, connectQueue, defineTopic, type Message } from "../../lib/mq/index.ts";
import {
  type ConsumeOrder,
  type Consumer,
  DATA,
  inWindow,
  keyName,
  type Publisher,
  type PublishOrder,
  TEXT,
} from "./mq-contract.ts";

const bench = defineTopic("bench", { schema: v.strictObject({ text: v.string() }) });
type Data = { readonly text: string };

export async function publishToSkein(order: PublishOrder): Promise<Publisher> {
  const queue = await connectQueue({ url: order.url, member: "publisher" });
  const payload = order.isParsed ? { data: { text: TEXT } } : { raw: DATA };
  const keys = Array.from({ length: order.keys }, (_, i) => keyName(i));
  let turn = 0;
  const input = () => {
    turn = (turn + 1) % keys.length;
    return { type: "bench.sent", key: keys[turn]!, ...payload };
  };
  return (messages) =>
    inWindow(order, messages, (count) =>
      count === 1 ? queue.publish(bench, input()) : queue.publishMany(bench, Array.from({ length: count }, input)),
    );
}

export async function consumeFromSkein(order: ConsumeOrder): Promise<Consumer> {
  const queue = await connectQueue({ url: order.url, member: "consumer" });
  return async (seen) => {
    for (let group = 0; group < order.groups; group++) {
      await queue
        .consume(
          bench,
          optionsOf(order, group, (count) => seen(group, count)),
        )
        .start();
    }
  };
}

/** What a handler looked at: so that no engine finds out that nobody does. */
export const looked = { bytes: 0 };

function optionsOf(
  { mode, handler, isParsed, uncountedKey, doesFail }: ConsumeOrder,
  group: number,
  seen: (count: number) => void,
): ConsumeOptions<Data> {
  const look = isParsed
    ? ({ data }: Message<Data>) => {
        looked.bytes += data.text.length;
      }
    : ({ raw }: Message<Data>) => {
        looked.bytes += raw.length;
      };
  const base = { group: `group-${group}`, mode, validate: isParsed } as const;
  if (handler === "batch") {
    return {
      ...base,
      handleBatch(messages) {
        for (const message of messages) look(message);
        seen(messages.length);
      },
    };
  }
  return {
    ...base,
    handle(message) {
      look(message);
      if (uncountedKey === "" || message.key !== uncountedKey) seen(1);
      else if (doesFail) throw new Error("as ordered");
    },
  };
}

/** `skein delayed`: messages that wait until they are due, and an operator's orders about one: cancel, move, send now. */

import { defineCommand } from "citty";
import type { DelayedMessage, DelayedResult } from "../../lib/mq/index.ts";
import { jsonArgument, required, timeOf, topicArgument, wholeNumberOf, yesArgument } from "./arguments.ts";
import { Failure, openRunningQueue, type RunningQueue } from "./running.ts";
import { describeMs, describeTime, print, renderFields, renderPage, renderTable } from "./table.ts";

const ID = { type: "positional", description: "The message's id", required: true } as const;
const LIMIT = { type: "string", description: "How many to print, 1..500 (default 100)", valueHint: "number" } as const;
const CURSOR = { type: "string", description: "Where the page before ended", valueHint: "cursor" } as const;
const AT = { type: "string", description: "Its new due time; the past is now", valueHint: "time" } as const;

const list = defineCommand({
  meta: { name: "list", description: "Print messages that wait, the next due first (default)" },
  args: { topic: topicArgument, limit: LIMIT, cursor: CURSOR, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const page = await running.queue.delayed.list({
      ...(args.topic === undefined ? {} : { topic: args.topic }),
      ...(args.limit === undefined ? {} : { limit: wholeNumberOf("limit", args.limit) }),
      ...(args.cursor === undefined ? {} : { cursor: args.cursor }),
    });
    print(page, args.json, ({ messages, next }) => renderPage(render(messages), "cursor", next));
  },
});

const inspect = defineCommand({
  meta: { name: "inspect", description: "Print one, up to a day after its end" },
  args: { id: ID, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    print(await existing(running, args.id), args.json, renderMessage);
  },
});

const cancel = defineCommand({
  meta: { name: "cancel", description: "Never deliver it" },
  args: { id: ID, yes: yesArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    if (!args.yes) {
      const { topic, deliverAt } = await existing(running, args.id);
      throw new Failure(`this drops a message that ${topic} gets at ${describeTime(deliverAt)}; add --yes to do it`);
    }
    told(args.id, "cancelled", await running.queue.delayed.cancel(args.id));
  },
});

const move = defineCommand({
  meta: { name: "move", description: "Give it another due time" },
  args: { id: ID, at: AT },
  async run({ args }) {
    const at = timeOf("at", required("at", args.at));
    await using running = await openRunningQueue();
    told(args.id, `due at ${describeTime(at)}`, await running.queue.delayed.move(args.id, at));
  },
});

const sendNow = defineCommand({
  meta: { name: "send-now", description: "Deliver it now, whether its condition holds or not" },
  args: { id: ID },
  async run({ args }) {
    await using running = await openRunningQueue();
    told(args.id, "sent", await running.queue.delayed.sendNow(args.id));
  },
});

export const delayed = defineCommand({
  meta: { name: "delayed", description: "List, inspect, cancel, move and send messages that wait until they are due" },
  // What stands before the name of an action is known here too, so that a value is not taken for an action.
  args: { topic: topicArgument, limit: LIMIT, cursor: CURSOR, at: AT, json: jsonArgument, yes: yesArgument },
  default: "list",
  subCommands: { list, inspect, cancel, move, "send-now": sendNow },
});

async function existing({ queue }: RunningQueue, id: string) {
  const message = await queue.delayed.get(id);
  if (!message) throw new Failure(`there is no delayed message ${id}, or it ended more than a day ago`);
  return message;
}

/** Prints what was done. Throws Failure when it could not be. */
function told(id: string, done: string, result: DelayedResult): void {
  if (result === "already_fired") throw new Failure(`${id} has been sent already`);
  if (result === "not_found") throw new Failure(`nothing waits under ${id}`);
  console.log(`${id} is ${done}`);
}

function render(messages: readonly DelayedMessage[]): string {
  const rows = messages.map(({ id, deliverAt, topic, key, type, condition }) => {
    const left = deliverAt - Date.now();
    return [
      ...[id, describeTime(deliverAt), left > 0 ? describeMs(left) : "due", topic, key, type],
      condition === undefined ? "" : JSON.stringify(condition),
    ];
  });
  return renderTable(["id", "due", "in", "topic", "key", "type", "condition"], rows);
}

function renderMessage({ raw, ...message }: DelayedMessage & { readonly raw?: string }): string {
  const { id, state, topic, key, type, deliverAt, createdAt, expireAt, endedAt, entry, reason, condition } = message;
  const time = (ms: number | undefined) => (ms === undefined ? "" : describeTime(ms));
  const fields: [string, string][] = [
    ["id", id],
    ["state", reason === undefined ? state : `${state}: ${reason}`],
    ["topic", topic],
    ["key", key],
    ["type", type],
    ["created", time(createdAt)],
    ["due", time(deliverAt)],
    ["expires", time(expireAt)],
    ["ended", time(endedAt)],
    ["entry", entry ?? ""],
    ["condition", condition === undefined ? "" : JSON.stringify(condition)],
    ["data", raw ?? ""],
  ];
  return renderFields(fields.filter(([, value]) => value !== ""));
}

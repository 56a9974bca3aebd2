/** `skein half`: half messages that nobody has decided yet, and an operator's decision about one: commit, rollback, resume. */

import { defineCommand } from "citty";
import type { Half, HalfDetails } from "../../lib/mq/index.ts";
import { jsonArgument, wholeNumberOf, yesArgument } from "./arguments.ts";
import { Failure, openRunningQueue } from "./running.ts";
import { describeMs, describeTime, print, renderFields, renderPage, renderTable } from "./table.ts";

const ID = { type: "positional", description: "The transaction's id", required: true } as const;
const STATE = { type: "string", description: "prepared or expired (default)", valueHint: "state" } as const;
const LIMIT = { type: "string", description: "How many to print, 1..200 (default 50)", valueHint: "number" } as const;
const CURSOR = { type: "string", description: "Where the page before ended", valueHint: "cursor" } as const;

const list = defineCommand({
  meta: {
    name: "list",
    description: "Print half messages that expired and wait for an operator, or are prepared (default)",
  },
  args: { state: STATE, limit: LIMIT, cursor: CURSOR, json: jsonArgument },
  async run({ args }) {
    const { state = "expired" } = args;
    if (state !== "prepared" && state !== "expired") throw new Failure(`--state ${state} must be prepared or expired`);
    await using running = await openRunningQueue();
    const page = await running.queue.transactions.list({
      state,
      ...(args.limit === undefined ? {} : { limit: wholeNumberOf("limit", args.limit) }),
      ...(args.cursor === undefined ? {} : { cursor: args.cursor }),
    });
    print(page, args.json, ({ halves, next }) => renderPage(render(halves), "cursor", next));
  },
});

const inspect = defineCommand({
  meta: { name: "inspect", description: "Print one with its message and its checks" },
  args: { id: ID, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    print(await running.queue.transactions.get(args.id), args.json, renderHalf);
  },
});

const decide = (decision: "commit" | "rollback", description: string) =>
  defineCommand({
    meta: { name: decision, description },
    args: { id: ID, yes: yesArgument },
    async run({ args }) {
      await using running = await openRunningQueue();
      const { transactions } = running.queue;
      if (!args.yes) {
        const { state, topic, producerGroup } = await transactions.get(args.id);
        throw new Failure(
          `this decides for ${producerGroup}, for ever, a message of ${topic} that is ${state}; add --yes to do it`,
        );
      }
      const { state, entry } = await transactions[decision](args.id);
      console.log(`${args.id} is ${state}${entry === undefined ? "" : ` as entry ${entry}`}`);
    },
  });

const resume = defineCommand({
  meta: { name: "resume", description: "Ask the producer group again: new checks, the first one now" },
  args: { id: ID },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { state, producerGroup } = await running.queue.transactions.resume(args.id);
    console.log(`${args.id} is ${state}; ${producerGroup} is asked again`);
  },
});

export const half = defineCommand({
  meta: { name: "half", description: "List, inspect, commit, roll back and resume half messages" },
  // What stands before the name of an action is known here too, so that a value is not taken for an action.
  args: { state: STATE, limit: LIMIT, cursor: CURSOR, json: jsonArgument, yes: yesArgument },
  default: "list",
  subCommands: {
    list,
    inspect,
    commit: decide("commit", "Append it to its topic, whatever its producer would say"),
    rollback: decide("rollback", "Drop its message, whatever its producer would say"),
    resume,
  },
});

function render(halves: readonly Half[]): string {
  const rows = halves.map(({ id, state, topic, producerGroup, checks, preparedAt, checkUrl = "" }) => [
    ...[id, state, topic, producerGroup, describeMs(Date.now() - preparedAt), String(checks), checkUrl],
  ]);
  return renderTable(["id", "state", "topic", "producers", "age", "checks", "check URL"], rows);
}

function renderHalf(details: HalfDetails): string {
  const { id, state, topic, producerGroup, checkUrl, checks, preparedAt, nextCheckAt, messageId, entry } = details;
  const fields: [string, string | undefined][] = [
    ["id", id],
    ["state", state],
    ["topic", topic],
    ["producers", producerGroup],
    ["check URL", checkUrl],
    ["checks", nextCheckAt === undefined ? String(checks) : `${checks}, next ${describeTime(nextCheckAt)}`],
    ["prepared", describeTime(preparedAt)],
    ["message", messageId],
    ["entry", entry],
    ["key", details.message?.key],
    ["type", details.message?.type],
    ["data", details.message?.raw],
  ];
  return renderFields(fields.flatMap(([name, value]) => (value ? [[name, value] as const] : [])));
}

/** `skein dead-letters`: what the groups gave up on. List it, look into one, give it back to its group. */

import { defineCommand } from "citty";
import type {
  DeadLetterQuery,
  Queue,
  RedriveFilter,
  RedriveReply,
  RedriveSelection,
  RedriveStatus,
  StoredDeadLetter,
} from "../../lib/mq/index.ts";
import {
  groupArgument,
  groupNamed,
  jsonArgument,
  required,
  timeOf,
  topicArgument,
  wholeNumberOf,
  yesArgument,
} from "./arguments.ts";
import { Failure, openRunningQueue } from "./running.ts";
import { describeTime, print, renderFields, renderPage, renderTable } from "./table.ts";

const FILTERS = {
  key: { type: "string", description: "Only messages with this order key", valueHint: "key" },
  error: { type: "string", description: "Only with this text in one of their errors", valueHint: "text" },
  before: {
    type: "string",
    description: "Only buried before this time; of a list also a letter's id",
    valueHint: "time",
  },
} as const;
const AFTER = { type: "string", description: "Only buried at or after this time", valueHint: "time" } as const;
const LIMIT = { type: "string", description: "Letters to print, 1..200 (default 50)", valueHint: "number" } as const;
const IDS = { type: "string", description: "These letters (comma)", valueHint: "ids" } as const;
const PER_SECOND = { type: "string", description: "In the background, at this rate", valueHint: "number" } as const;
const DRY_RUN = { type: "boolean", default: false, description: "Only say what would become of each" } as const;
const ID = { type: "positional", description: "Its id", required: true } as const;

const list = defineCommand({
  meta: { name: "list", description: "Print dead letters of a group, newest first (default)" },
  args: { topic: topicArgument, group: groupArgument, ...FILTERS, limit: LIMIT, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    const query: DeadLetterQuery = {
      ...(args.key === undefined ? {} : { key: args.key }),
      ...(args.error === undefined ? {} : { error: args.error }),
      ...(args.before === undefined ? {} : { before: beforeOf(args.before) }),
      ...(args.limit === undefined ? {} : { limit: wholeNumberOf("limit", args.limit) }),
    };
    const page = await running.queue.deadLetters.list(topic.name, group.group, query);
    print(page, args.json, ({ letters, next }) => renderPage(render(letters), "before", next));
  },
});

const inspect = defineCommand({
  meta: { name: "inspect", description: "Print one dead letter with its attempts and its data" },
  args: { id: ID, topic: topicArgument, group: groupArgument, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    const letter = await running.queue.deadLetters.get(topic.name, group.group, args.id);
    if (!letter) throw new Failure(`${topic.name}/${group.group} has no dead letter ${args.id}`);
    print(letter, args.json, renderLetter);
  },
});

const redrive = defineCommand({
  meta: {
    name: "redrive",
    description: "Give dead letters back to their group: those named, those that match, or all",
  },
  args: {
    ...{ topic: topicArgument, group: groupArgument, ids: IDS, ...FILTERS, after: AFTER },
    ...{ "dry-run": DRY_RUN, "per-second": PER_SECOND, yes: yesArgument, json: jsonArgument },
  },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { deadLetters } = running.queue;
    const { topic, group } = await groupNamed(running.queue, args);
    const selection = selectionOf(args);
    const name = `${topic.name}/${group.group}`;
    const isDry = args["dry-run"];
    if (!isDry && !args.yes) {
      const { matched } = await deadLetters.redrive(topic.name, group.group, selection, { dryRun: true });
      throw new Failure(`this gives ${matched} dead letters back to ${name}; add --yes to do it`);
    }
    const perSecond = args["per-second"];
    const reply = await deadLetters.redrive(topic.name, group.group, selection, {
      dryRun: isDry,
      ...(perSecond === undefined ? {} : { perSecond: wholeNumberOf("per-second", perSecond) }),
    });
    print(reply, args.json, () => renderReply(reply, name, isDry));
  },
});

const progress = defineCommand({
  meta: { name: "progress", description: "Print how far a redrive in the background has come" },
  args: { id: ID, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    print(await statusOf(running.queue, args.id), args.json, renderStatus);
  },
});

const cancel = defineCommand({
  meta: { name: "cancel", description: "End a redrive in the background" },
  args: { id: ID },
  async run({ args }) {
    await using running = await openRunningQueue();
    const outcome = await running.queue.deadLetters.cancelRedrive(args.id);
    if (outcome === "not_found") throw new Failure(`there is no redrive ${args.id}`);
    if (outcome !== "ok") throw new Failure(`redrive ${args.id} has ended already: it is ${outcome}`);
    const { results } = await statusOf(running.queue, args.id);
    console.log(`redrive ${args.id} is cancelled; ${results.redriven} dead letters were given back`);
  },
});

export const deadLetters = defineCommand({
  meta: { name: "dead-letters", description: "List, inspect and redrive what groups gave up on" },
  // What stands before the name of an action is known here too, so that a value is not taken for an action.
  args: {
    ...{ topic: topicArgument, group: groupArgument, ids: IDS, ...FILTERS, after: AFTER, limit: LIMIT },
    ...{ "dry-run": DRY_RUN, "per-second": PER_SECOND, yes: yesArgument, json: jsonArgument },
  },
  default: "list",
  subCommands: { list, inspect, redrive, progress, cancel },
});

async function statusOf({ deadLetters: letters }: Queue, id: string) {
  const status = await letters.redriveStatus(id);
  if (!status) throw new Failure(`there is no redrive ${id}`);
  return status;
}

function beforeOf(text: string): string {
  return /^\d+-\d+-\d+$/.test(text) ? text : String(timeOf("before", text));
}

type SelectionArguments = { readonly [name in "ids" | "key" | "error" | "before" | "after"]?: string | undefined };

function selectionOf({ ids, key, error, before, after }: SelectionArguments): RedriveSelection {
  const filter: RedriveFilter = {
    ...(key === undefined ? {} : { key }),
    ...(error === undefined ? {} : { error }),
    ...(before === undefined ? {} : { before: timeOf("before", before) }),
    ...(after === undefined ? {} : { after: timeOf("after", after) }),
  };
  if (ids === undefined) return { filter };
  const [other] = Object.keys(filter);
  if (other !== undefined) throw new Failure(`--ids names the letters: leave out --${other}`);
  return { ids: required("ids", ids).split(",") };
}

function render(letters: readonly StoredDeadLetter[]): string {
  const rows = letters.map(({ id, buriedAt, key, type, reason, attemptCount, redrives, lastError }) => [
    ...[id, describeTime(buriedAt), key, type, reason, String(attemptCount), String(redrives), lastError],
  ]);
  return renderTable(["id", "buried", "key", "type", "reason", "attempts", "redrives", "last error"], rows);
}

function renderReply({ matched, results, redrive: id }: RedriveReply, name: string, isDry: boolean): string {
  if (id !== undefined) return `redrive ${id} runs in the background: \`skein dead-letters progress ${id}\``;
  const redriven = results.filter(({ result }) => result === "redriven").length;
  const summary = `${redriven} of ${matched} ${isDry ? "would be" : "were"} given back to ${name}`;
  if (results.length === 0) return summary;
  const rows = results.map(({ id: letter, result }) => [letter, result]);
  return `${renderTable(["id", "result"], rows)}\n\n${summary}`;
}

function renderStatus({ topic, group, state, perSecond, results, createdAt, endedAt }: RedriveStatus): string {
  return renderFields([
    ["group", `${topic}/${group}`],
    ["state", endedAt === undefined ? state : `${state} at ${describeTime(endedAt)}`],
    ["begun", `${describeTime(createdAt)}, ${perSecond} a second`],
    ...Object.entries(results).map(([result, count]) => [result, String(count)] as const),
  ]);
}

function renderLetter(letter: StoredDeadLetter): string {
  const { id, messageId, topic, group, key, type, tag, reason, attemptCount, redrives, attempts } = letter;
  const fields: [string, string][] = [
    ["id", id],
    ["message", messageId],
    ["group", `${topic}/${group}`],
    ["key", key],
    ["type", tag === "" ? type : `${type}, tag ${tag}`],
    ["committed", `${describeTime(letter.time)}, entry ${letter.entry}`],
    ["buried", `${describeTime(letter.buriedAt)} by ${letter.member}: ${reason}`],
    ["attempts", `${attemptCount}, redriven ${redrives} times`],
    ["first error", letter.firstError],
    ["last error", letter.lastError],
    ["properties", letter.properties],
    ["data", letter.data],
  ];
  const history = attempts.map(({ at, member, error }) => [describeTime(at), member, error]);
  const shown = renderFields(fields.filter(([, value]) => value !== ""));
  return history.length === 0 ? shown : `${shown}\n\n${renderTable(["failed", "member", "error"], history)}`;
}

/** `skein groups`: how far each group has come, and an operator's orders to one: pause, resume, unpark, seek, drop. */

import { defineCommand } from "citty";
import { AppError } from "../../lib/errors.ts";
import type { AnyTopic, GroupDescription, GroupSettings, KeyAside, Queue, StartPoint } from "../../lib/mq/index.ts";
import {
  groupArgument,
  groupNamed,
  jsonArgument,
  required,
  timeOf,
  topicArgument,
  topicNamed,
  yesArgument,
} from "./arguments.ts";
import { Failure, openRunningQueue } from "./running.ts";
import { describeMs, print, renderTable } from "./table.ts";
import { describeAll } from "./topics.ts";

/** extlogic looks once a second at what is declared, and lets calls under way end. */
const WEBHOOK_STOPS_WITHIN_MS = 10_000;
const LOOK_MS = 200;

const REASON = { type: "string", description: "Shown beside the group", valueHint: "text" } as const;
const KEY = { type: "string", description: "The parked key", valueHint: "key" } as const;
const PLACE = { type: "string", description: "first, latest, a time, or an entry id", valueHint: "place" } as const;

const list = defineCommand({
  meta: { name: "list", description: "Print groups: mode, lag, oldest message, dead letters, members (default)" },
  args: { topic: topicArgument, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { queue } = running;
    const described =
      args.topic === undefined ? await describeAll(queue) : [await queue.describe(await topicNamed(queue, args.topic))];
    const groups = await Promise.all(
      described.map(async ({ topic, groups: found }) => {
        const declared = await queue.catalog.groups(topic);
        const settingsOf = (name: string) => declared.find(({ group }) => group === name)?.settings;
        return found.map((group) => ({ topic, ...group, settings: withoutSecret(settingsOf(group.group)) }));
      }),
    );
    print(groups.flat(), args.json, render);
  },
});

const pause = defineCommand({
  meta: { name: "pause", description: "Let the members finish what is in hand and take nothing more" },
  args: { topic: topicArgument, group: groupArgument, reason: REASON },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    await running.queue.control.pause(topic, group.group, args.reason ?? "");
    console.log(`${topic.name}/${group.group} is paused; ${group.lag} messages wait`);
  },
});

const resume = defineCommand({
  meta: { name: "resume", description: "Let a paused group go on" },
  args: { topic: topicArgument, group: groupArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    await running.queue.control.resume(topic, group.group);
    console.log(`${topic.name}/${group.group} goes on with ${group.lag} messages`);
  },
});

const aside = defineCommand({
  meta: { name: "aside", description: "Print the keys of an ordered group that cannot go on, with their last error" },
  args: { topic: topicArgument, group: groupArgument, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    const keys = await running.queue.aside.list(topic, group.group);
    print(keys, args.json, renderAside);
  },
});

const unpark = defineCommand({
  meta: {
    name: "unpark",
    description: "Let a parked key go on: its first message is tried again, then the rest in order",
  },
  args: { topic: topicArgument, group: groupArgument, key: KEY },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    const key = required("key", args.key);
    const name = `${topic.name}/${group.group}`;
    const outcome = await running.queue.aside.unpark(topic, group.group, key);
    if (outcome === "not_found") throw new Failure(`key ${JSON.stringify(key)} of ${name} is not parked`);
    console.log(`key ${key} of ${name} goes on`);
  },
});

const seek = defineCommand({
  meta: { name: "seek", description: "Set a group to another place: it is given again what lies behind it" },
  args: { topic: topicArgument, group: groupArgument, to: PLACE, yes: yesArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { topic, group } = await groupNamed(running.queue, args);
    const to = placeOf(args.to);
    const name = `${topic.name}/${group.group}`;
    if (!args.yes) {
      throw new Failure(
        `this sets ${name} to ${args.to} and forgets its ${group.lag} unfinished messages; add --yes to do it`,
      );
    }
    await running.queue.control.seek(topic, group.group, to);
    const [after] = (await running.queue.describe(topic)).groups.filter((each) => each.group === group.group);
    console.log(`${name} goes on at ${args.to}, with ${after?.lag ?? 0} messages before it`);
  },
});

const drop = defineCommand({
  meta: { name: "drop", description: "Forget a group, its place and its dead letters; its members must have stopped" },
  args: { topic: topicArgument, group: groupArgument, yes: yesArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { queue } = running;
    const { topic, group } = await groupNamed(queue, args);
    const name = `${topic.name}/${group.group}`;
    if (!args.yes) {
      const loss = `${group.lag} unfinished messages and ${group.deadLetters} dead letters`;
      throw new Failure(`this forgets ${name} with its ${loss}; add --yes to do it`);
    }
    const declared = (await queue.catalog.groups(topic.name)).find((each) => each.group === group.group);
    await dropGroup(queue, topic, group.group, declared?.settings.webhook !== undefined);
    console.log(`${name} is dropped`);
  },
});

export const groups = defineCommand({
  meta: { name: "groups", description: "Print groups and how far they have come; pause, resume, unpark, seek, drop" },
  // What stands before the name of an action is known here too, so that a value is not taken for an action.
  args: {
    ...{ topic: topicArgument, group: groupArgument, reason: REASON, key: KEY, to: PLACE },
    ...{ json: jsonArgument, yes: yesArgument },
  },
  default: "list",
  subCommands: { list, pause, resume, aside, unpark, seek, drop },
});

/** Throws CONFLICT while members are alive; those that send webhooks stop by themselves. */
async function dropGroup(queue: Queue, topic: AnyTopic, group: string, isWebhook: boolean): Promise<void> {
  const deadline = performance.now() + (isWebhook ? WEBHOOK_STOPS_WITHIN_MS : 0);
  if (isWebhook) await queue.catalog.forgetGroup(topic.name, group);
  for (;;) {
    try {
      await queue.control.dropGroup(topic, group);
      break;
    } catch (error) {
      if (!(error instanceof AppError && error.code === "CONFLICT") || performance.now() > deadline) throw error;
      await Bun.sleep(LOOK_MS);
    }
  }
  await queue.catalog.forgetGroup(topic.name, group);
  // A receive that had begun before may have made it anew.
  await queue.control.dropGroup(topic, group);
}

/** As a service declared it; undefined of groups that only a program knows. What signs its webhook is not for screens. */
function withoutSecret(settings: GroupSettings | undefined) {
  if (!settings?.webhook) return settings;
  return { ...settings, webhook: { url: settings.webhook.url } };
}

function placeOf(text: string | undefined): StartPoint {
  if (text === undefined) throw new Failure("--to is missing");
  if (text === "first" || text === "latest") return text;
  return /^\d+-\d+$/.test(text) ? { id: text } : { time: timeOf("to", text) };
}

function render(groups: readonly (GroupDescription & { readonly topic: string })[]): string {
  const rows = groups.map((each) => {
    const { topic, group, mode, lag, open, oldestMs, deadLetters, parkedKeys, sideMessages, owners, paused } = each;
    const members = new Set(owners.filter((owner) => owner !== undefined)).size;
    const ofOrdered = (count: number) => (mode === "ordered" ? String(count) : "");
    return [
      ...[topic, group, mode, String(lag), String(open), lag === 0 ? "" : describeMs(oldestMs), String(deadLetters)],
      ...[ofOrdered(sideMessages), ofOrdered(parkedKeys), ofOrdered(members)],
      paused ? `paused ${describeMs(Date.now() - paused.at)} ${paused.reason}` : "",
    ];
  });
  const head = ["topic", "group", "mode", "lag", "open", "oldest", "dead", "aside", "parked", "members", ""];
  return renderTable(head, rows);
}

function renderAside(keys: readonly KeyAside[]): string {
  const rows = keys.map(({ key, state, sinceMs, messages, failed, history }) => [
    ...[key, state, describeMs(Date.now() - sinceMs), String(messages), String(failed), history.at(-1)?.[2] ?? ""],
  ]);
  return renderTable(["key", "state", "since", "messages", "attempts", "last error"], rows);
}

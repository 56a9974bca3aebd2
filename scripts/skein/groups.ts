/** `skein groups`: how far each group has come, and an operator's orders to one: pause, resume, seek, unpark, drop. */

import { defineCommand } from "citty";
import type { GroupDescription, StartPoint } from "../../lib/mq/index.ts";
import {
  groupArgument,
  groupNamed,
  jsonArgument,
  timeOf,
  topicArgument,
  topicNamed,
  yesArgument,
} from "./arguments.ts";
import { Failure, openRunningQueue } from "./running.ts";
import { describeMs, renderTable } from "./table.ts";
import { describeAll } from "./topics.ts";

const REASON = { type: "string", description: "Shown beside the group", valueHint: "text" } as const;
const PLACE = { type: "string", description: "first, latest, a time, or an entry id", valueHint: "place" } as const;

const list = defineCommand({
  meta: { name: "list", description: "Print groups: mode, lag, oldest message, dead letters, members (default)" },
  args: { topic: topicArgument, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const { queue } = running;
    const described =
      args.topic === undefined ? await describeAll(queue) : [await queue.describe(await topicNamed(queue, args.topic))];
    const groups = described.flatMap(({ topic, groups: found }) => found.map((group) => ({ topic, ...group })));
    console.log(args.json ? JSON.stringify(groups, null, 2) : render(groups));
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
    await queue.control.dropGroup(topic, group.group);
    await queue.catalog.forgetGroup(topic.name, group.group);
    console.log(`${name} is dropped`);
  },
});

export const groups = defineCommand({
  meta: { name: "groups", description: "Print groups and how far they have come; pause, resume, seek, drop one" },
  // What stands before the name of an action is known here too, so that a value is not taken for an action.
  args: { topic: topicArgument, group: groupArgument, reason: REASON, to: PLACE, json: jsonArgument, yes: yesArgument },
  default: "list",
  subCommands: { list, pause, resume, seek, drop },
});

function placeOf(text: string | undefined): StartPoint {
  if (text === undefined) throw new Failure("--to is missing");
  if (text === "first" || text === "latest") return text;
  return /^\d+-\d+$/.test(text) ? { id: text } : { time: timeOf("to", text) };
}

function render(groups: readonly (GroupDescription & { readonly topic: string })[]): string {
  const rows = groups.map(({ topic, group, mode, lag, open, oldestMs, deadLetters, owners, paused }) => {
    const members = new Set(owners.filter((owner) => owner !== undefined)).size;
    const state = paused ? `paused ${describeMs(Date.now() - paused.at)} ${paused.reason}` : "";
    return [
      ...[topic, group, mode, String(lag), String(open), lag === 0 ? "" : describeMs(oldestMs), String(deadLetters)],
      ...[mode === "ordered" ? String(members) : "", state],
    ];
  });
  return renderTable(["topic", "group", "mode", "lag", "open", "oldest", "dead", "members", ""], rows);
}

/** `skein trace <id>`: the life of one message, from its commit to what each group has made of it. */

import { defineCommand } from "citty";
import type { Trace } from "../../lib/mq/index.ts";
import { jsonArgument } from "./arguments.ts";
import { openRunningQueue } from "./running.ts";
import { describeTime, print, renderTable } from "./table.ts";

export const trace = defineCommand({
  meta: { name: "trace", description: "Print the life of one message by its id" },
  args: { id: { type: "positional", description: "The message's id", required: true }, json: jsonArgument },
  async run({ args }) {
    await using running = await openRunningQueue();
    const found = await running.queue.trace(args.id);
    print(found, args.json, render);
    if (found.verdict === "not_found") process.exitCode = 1;
  },
});

function render({
  id,
  verdict,
  isComplete,
  entriesLookedAt,
  records,
  commits,
  deliveries,
  deadLetters,
}: Trace): string {
  const bound = isComplete ? "" : `; the search ended after ${entriesLookedAt} entries, before all was looked through`;
  if (verdict === "not_found") return `no message ${id} was found${bound}`;
  const parts = [
    ...records.map(({ kind, record }) => `${kind} ${JSON.stringify(record)}`),
    commits.length === 0
      ? "its entries were trimmed"
      : renderTable(
          ["committed", "topic", "partition", "entry", "key", "type", "tag", "for"],
          commits.map(({ time, topic, partition, entry, key, type, tag, addressedTo = "" }) => [
            ...[describeTime(time), topic, String(partition), entry, key, type, tag, addressedTo],
          ]),
        ),
  ];
  if (deliveries.length > 0) {
    const rows = deliveries.map(({ topic, group, entry, state, attemptCount, member = "", dueAt, attempts }) => [
      ...[`${topic}/${group}`, entry, state, String(attemptCount), member],
      ...[dueAt === undefined ? "" : describeTime(dueAt), attempts.at(-1)?.error ?? ""],
    ]);
    parts.push(renderTable(["group", "entry", "state", "attempts", "member", "due", "last error"], rows));
  }
  if (deadLetters.length > 0) {
    const rows = deadLetters.map(({ topic, group, id: letter, reason }) => [`${topic}/${group}`, letter, reason]);
    parts.push(renderTable(["group", "dead letter", "reason"], rows));
  }
  if (bound !== "") parts.push(`There may be more${bound}.`);
  return parts.join("\n\n");
}

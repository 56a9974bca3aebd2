/** What a replay came to, for people: how much, how fast, who was killed, and the table of differences. */

import type { Percentiles } from "../load/contract.ts";
import { renderTable } from "../skein/table.ts";
import type { ReplayResult } from "./run.ts";

export function renderReport(result: ReplayResult): string {
  const { lines, deliveries, users, devices, gateways, playSeconds, files } = result;
  const total = (
    name: "empty" | "tooLong" | "replacements" | "repairedLines" | "other" | "joined" | "left" | "renamed",
  ) => files.reduce((sum, file) => sum + file[name], 0);
  const text = [
    `${files.length} ${files.length === 1 ? "file" : "files"}, ${lines} messages, ${users} users with ${devices === 1 ? "a socket" : `${devices} sockets`} each ` +
      `over ${gateways} gateways, seed ${result.seed}`,
    `${total("joined")} joins, ${total("left")} leaves, ${total("renamed")} renames told in the logs; not sent: ` +
      `${total("empty")} empty, ${total("tooLong")} too long, ${total("other")} other lines; ` +
      `${total("replacements")} U+FFFD put into ${total("repairedLines")} lines`,
    "",
    renderTable(
      ["", "count", "rate", "p50", "p95", "p99", "max"],
      [
        ["acknowledged", ...figures(lines, playSeconds, result.ackMs)],
        ["delivered", ...figures(deliveries, playSeconds, result.deliveryMs)],
      ],
    ),
    `connected in ${result.connectSeconds.toFixed(1)} s, played in ${playSeconds.toFixed(1)} s, ` +
      `${result.reconnects} reconnects, ${result.resyncs} resyncs`,
    ...mixed(result),
  ];
  if (result.kills.length > 0) {
    text.push("", "killed with -9:");
    for (const { name, pid, atLine, atMs } of result.kills) {
      text.push(
        `  ${(atMs / 1_000).toFixed(1).padStart(7)} s  line ${String(atLine).padStart(6)}  ${name} (pid ${pid})`,
      );
    }
  }
  text.push(
    "",
    renderTable(
      ["looked into", "messages", "lost", "doubled", "reordered", "different", "outside"],
      result.findings.map(({ where, messages, lost, doubled, reordered, different, outside }) => [
        ...[where, ...[messages, lost, doubled, reordered, different, outside].map(String)],
      ]),
    ),
  );
  for (const example of result.findings.flatMap(({ examples }) => examples)) text.push(`  ${example}`);
  for (const problem of result.problems) text.push(`! ${problem}`);
  text.push(
    "",
    result.isClean
      ? "Every line once, in order, everywhere, and the same conversation in every hand."
      : "There are differences.",
  );
  return text.join("\n");
}

function mixed({ acts, naps, caughtUp, typingSeen }: ReplayResult): string[] {
  const text: string[] = [];
  const done = Object.values(acts).reduce((sum, count) => sum + count, 0);
  if (done > 0) {
    text.push(
      `mixed in: ${acts.edit} edits, ${acts.recall} recalls, ${acts.react} reactions, ${acts.read} reads, ` +
        `${acts.typing} times typing (seen ${typingSeen} times)`,
    );
  }
  if (naps > 0) text.push(`second devices were offline half the time: ${naps} naps, ${caughtUp} messages caught up on`);
  return text;
}

function figures(count: number, seconds: number, { p50, p95, p99, max }: Percentiles): string[] {
  const rate = `${Math.round(count / Math.max(seconds, 0.001))} /s`;
  return [String(count), rate, ...[p50, p95, p99, max].map((ms) => `${ms.toFixed(ms < 10 ? 1 : 0)} ms`)];
}

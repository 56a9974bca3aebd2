/** Prometheus' text format, as prom-client writes it: a block for each metric, its HELP and TYPE lines first, a blank line between. */

import { Registry } from "prom-client";

export const EXPOSITION_CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

/** One exposition of many. What several tell of a metric stands in one block, as the format demands, under the first one's help. */
export function mergeExpositions(texts: readonly string[]): string {
  const blocks = new Map<string, string[]>();
  for (const block of texts.flatMap((text) => text.trim().split("\n\n"))) {
    const [help, type] = block.split("\n", 2) as [string, string?];
    if (type === undefined) continue;
    const head = `${help}\n${type}`;
    const name = help.split(" ", 3)[2]!;
    const merged = blocks.get(name);
    if (!merged) blocks.set(name, [block]);
    else if (block.length > head.length) merged.push(block.slice(head.length + 1));
  }
  return `${[...blocks.values()].map((parts) => parts.join("\n")).join("\n\n")}\n`;
}

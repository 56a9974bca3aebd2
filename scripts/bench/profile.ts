/** Where the CPU time of a process went, out of the profiles that `bun --cpu-prof` wrote at its end: functions by own time. */

import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

const SHOWN = 12;

/** The part of V8's .cpuprofile format that is read here. */
interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

export interface HotFunction {
  readonly name: string;
  readonly place: string;
  /** Share of the samples, 0..1. */
  readonly share: number;
}

export function hotFunctions(profile: Profile): HotFunction[] {
  const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]));
  const micros = new Map<string, { name: string; place: string; spent: number }>();
  let all = 0;
  for (const [i, id] of profile.samples.entries()) {
    const frame = frames.get(id);
    if (!frame) continue;
    const spent = profile.timeDeltas[i] ?? 0;
    const place = frame.url === "" ? "" : `${basename(frame.url)}:${frame.lineNumber + 1}`;
    const key = `${frame.functionName} ${place}`;
    const entry = micros.get(key) ?? { name: frame.functionName || "(anonymous)", place, spent: 0 };
    entry.spent += spent;
    micros.set(key, entry);
    if (entry.name !== "(idle)") all += spent;
  }
  return [...micros.values()]
    .filter(({ name }) => name !== "(idle)")
    .sort((a, b) => b.spent - a.spent)
    .slice(0, SHOWN)
    .map(({ name, place, spent }) => ({ name, place, share: spent / all }));
}

export function printProfiles(folder: string, print: (line: string) => void): void {
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".cpuprofile"))) {
    print(`\nprofile ${file}`);
    for (const { name, place, share } of hotFunctions(
      JSON.parse(readFileSync(join(folder, file), "utf8")) as Profile,
    )) {
      print(`  ${(share * 100).toFixed(1).padStart(5)} %  ${name}  ${place}`);
    }
  }
}

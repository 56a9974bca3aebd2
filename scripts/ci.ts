/**
 * `bun run ci`: what CI runs, and the same on any machine: set-up, the tests by the README's own command, format and lint, types,
 * unused code. Runs every step whatever the others say, one line for each; the last line of all is `N passed, N failed` of
 * the tests. Exits with 1 when a step failed.
 */

import { setUpOrExit } from "./setup.ts";

interface Step {
  readonly name: string;
  readonly command: readonly string[];
}

const bun = process.execPath;
const TESTS: Step = { name: "tests", command: [bun, "run", "test"] };
const OTHERS: readonly Step[] = [
  { name: "format and lint", command: [bun, "--bun", "node_modules/.bin/biome", "ci", "--colors=off", "."] },
  { name: "types", command: [bun, "--bun", "node_modules/.bin/tsc", "--noEmit"] },
  { name: "unused code", command: [bun, "--bun", "node_modules/.bin/knip", "--no-progress"] },
];

interface Result {
  readonly name: string;
  readonly isGreen: boolean;
  readonly seconds: number;
  readonly output: string;
}

/** Shows a step's output as it comes and keeps it. */
async function runStep({ name, command }: Step): Promise<Result> {
  console.log(`── ${name}`);
  const begun = performance.now();
  const child = Bun.spawn([...command], { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([
    showAndKeep(child.stdout, process.stdout),
    showAndKeep(child.stderr, process.stderr),
    child.exited,
  ]);
  const seconds = (performance.now() - begun) / 1_000;
  return { name, isGreen: child.exitCode === 0, seconds, output: stdout + stderr };
}

async function showAndKeep(from: ReadableStream<Uint8Array>, to: NodeJS.WriteStream): Promise<string> {
  const decoder = new TextDecoder();
  let kept = "";
  for await (const chunk of from) {
    to.write(chunk);
    kept += decoder.decode(chunk, { stream: true });
  }
  return kept;
}

/** The count that Bun's summary gives for `word`; undefined when the run broke off before it. */
function summaryCount(output: string, word: "pass" | "fail"): number | undefined {
  const found = [...output.matchAll(new RegExp(`^\\s*(\\d+) ${word}$`, "gm"))].at(-1);
  return found && Number(found[1]);
}

await setUpOrExit({ redis: true, postgres: true });
const results: Result[] = [];
for (const step of [TESTS, ...OTHERS]) results.push(await runStep(step));
console.log("");
for (const { name, isGreen, seconds } of results) {
  console.log(`${isGreen ? "ok    " : "FAILED"}  ${name} (${seconds.toFixed(1)} s)`);
}
const [tests] = results as [Result];
const passed = summaryCount(tests.output, "pass") ?? 0;
// A run that broke off, or an error outside a test, fails without being counted.
const failed = Math.max(summaryCount(tests.output, "fail") ?? 0, tests.isGreen ? 0 : 1);
process.exitCode = results.every(({ isGreen }) => isGreen) ? 0 : 1;
console.log(`${passed} passed, ${failed} failed`);

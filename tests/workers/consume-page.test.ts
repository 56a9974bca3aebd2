/** The page "From any language" of lib/mq/README.md: its lines, run as they are printed beside a Skein. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { startSkein } from "../../scripts/harness.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";

const README = new URL("../../lib/mq/README.md", import.meta.url);

test("a service without our code declares, publishes, receives, acks, redrives, delays and reads along", async () => {
  using folder = temporaryFolder("consume-page");
  const roles = ["gateway", "logic", "archive", "scheduler"];
  await using skein = await startSkein({ roles, dataDir: join(folder.path, ".skein") });
  const [, lines] = /^```sh\n(.*?)^```$/ms.exec(await Bun.file(README).text())!;
  const script = lines!.replace("http://127.0.0.1:7400", skein.url);

  const run = async (text: string) => {
    const shell = Bun.spawn(["bash", "-uc", text], { cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    return Promise.all([shell.stdout.text(), shell.stderr.text()]);
  };
  const [said, faults] = await run(script);
  const replies = said.split("\n").filter((line) => line.startsWith("{"));
  const refused = replies.filter((line) => line.includes('"urn:skein:error'));

  // The tail is ended by the time that it was given; curl calls that an error.
  expect({ refused, faults: faults.replaceAll(/^curl: \(28\).*\n/gm, "") }).toEqual({ refused: [], faults: "" });
  const variables = script.match(/^(SKEIN|KEY)=.*$/gm)!.join("\n");
  const tail = /^curl .*\/tail.*$/m.exec(script)![0];
  const texts = [said];
  await eventually(async () => {
    // Once more when, on a busy machine, the time that the tail was given was over before it had said all.
    const text = texts.pop() ?? (await run(`${variables}\n${tail}`))[0];
    const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, event]) => JSON.parse(event!) as { data: unknown });
    expect(events.map(({ data }) => data)).toEqual(
      expect.arrayContaining([{ order: 1, item: "tea" }, { order: 2, item: "pot" }, { order: 3 }, "some day"]),
    );
  });
});

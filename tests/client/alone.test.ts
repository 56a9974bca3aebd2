/** The client's folder stands alone: copied into an app it needs nothing of ours, no package, and no more than a browser has. */

import { expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../support/folder.ts";
import { ROOT, readSources, withoutComments } from "../support/sources.ts";

const sources = readSources("lib/client/*.ts");

test("it imports its own files only", () => {
  const foreign = sources.flatMap(({ path, text }) =>
    Array.from(withoutComments(text).matchAll(/(?:\bfrom|\bimport\(?)\s*"([^"]+)"/g), ([, target]) => target!)
      .filter((target) => !/^\.\/[a-z-]+\.ts$/.test(target))
      .map((target) => `${path} imports ${target}`),
  );
  expect(foreign).toEqual([]);
});

test("its copy compiles with a browser's types alone", async () => {
  using folder = temporaryFolder("client-copy");
  cpSync(join(ROOT, "lib/client"), join(folder.path, "chat"), { recursive: true });
  const options = ["--lib", "ESNext,DOM", "--types", "", "--module", "Preserve", "--target", "ESNext", "--strict"];
  const tsc = join(ROOT, "node_modules/.bin/tsc");
  const compiler = Bun.spawn(
    [process.execPath, "--bun", tsc, "--noEmit", "--allowImportingTsExtensions", ...options, "chat/index.ts"],
    {
      cwd: folder.path,
      stdout: "pipe",
    },
  );
  expect(await new Response(compiler.stdout).text()).toBe("");
  expect(await compiler.exited).toBe(0);
});

test("it bundles for browsers, small, and into nothing that only a server has", async () => {
  const { outputs } = await Bun.build({
    entrypoints: [join(ROOT, "lib/client/index.ts")],
    target: "browser",
    minify: true,
  });
  const code = await outputs[0]!.text();
  const foreign = code.match(/\b(?:Bun|process|require|Buffer|__dirname)\b|node:/g);
  expect(foreign).toBeNull();
  // An app's users load it: a package that slipped in would show here first.
  expect(code.length).toBeLessThan(20_000);
});

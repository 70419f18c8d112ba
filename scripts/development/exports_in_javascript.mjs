// Runs the graphs of an export with transformers.js; exports_in_javascript.py calls this.
//
//   node exports_in_javascript.mjs MODULES EXPORT DTYPE < TEXTS
//
// MODULES is a folder in which @huggingface/transformers is installed, DTYPE fp32 or q8. TEXTS is a
// list of [text] and [text, second text] as JSON. Prints ids and outputs of each as JSON.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder, dtype] = process.argv.slice(2);
const entry = createRequire(join(resolve(modules), "any.js")).resolve("@huggingface/transformers");
const { env, AutoModel, AutoTokenizer } = await import(
  pathToFileURL(entry.replace(/\.cjs$/, ".mjs"))
);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder));
const name = basename(resolve(folder));
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModel.from_pretrained(name, { dtype });
const found = [];
for (const [text, second] of JSON.parse(readFileSync(0, "utf-8"))) {
  const inputs = await tokenizer(text, { text_pair: second ?? null, truncation: true });
  const outputs = await model(inputs);
  const values = Object.entries(outputs).map(([key, one]) => [key, one.tolist()]);
  found.push({ ids: inputs.input_ids.tolist()[0].map(Number), outputs: Object.fromEntries(values) });
}
console.log(JSON.stringify(found));

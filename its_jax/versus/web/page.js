"use strict";
// answers[pair][question] is 0 (left) or 1 (right).
const saved = JSON.parse(localStorage.getItem(name) || "null");
// Identifies this browser: of several files from one browser only the last one counts.
const who = localStorage.getItem(`${name} who`) || crypto.getRandomValues(new Uint32Array(2)).join("");
const answers = saved || pairs.map(() => ({}));
const isDone = (i) => Object.keys(pairs[i].questions).every((question) => question in answers[i]);
let at = pairs.findIndex((_, i) => !isDone(i));
if (at < 0) at = pairs.length;

const element = (id) => document.getElementById(id);

function made(tag, attributes, text) {
  const it = Object.assign(document.createElement(tag), attributes);
  if (text) it.textContent = text;
  return it;
}

function show() {
  if (at < pairs.length) element("sides").replaceChildren(...pairs[at].sides.map(figure));
  ask();
}

function ask() {
  const done = pairs.filter((_, i) => isDone(i)).length;
  Object.assign(element("done"), { max: pairs.length, value: done });
  element("count").textContent = `${done} of ${pairs.length}`;
  element("pair").hidden = at === pairs.length;
  element("thanks").hidden = done < pairs.length;
  element("back").disabled = at === 0;
  element("next").disabled = at === pairs.length;
  if (at === pairs.length) return;
  element("questions").replaceChildren(...Object.entries(pairs[at].questions).map(([key, text]) => fieldset(key, text)));
}

function figure(side, i) {
  const it = made("figure");
  const alt = `spectrogram on the ${["left", "right"][i]}`;
  it.append(made("img", { src: side.picture, alt }), made("audio", { src: side.sound, controls: true, preload: "auto" }));
  return it;
}

function fieldset(question, text) {
  const it = made("fieldset");
  it.append(made("legend", {}, text));
  ["The left one", "The right one"].forEach((label, i) => {
    const button = made("button", { type: "button" }, label);
    button.setAttribute("aria-pressed", answers[at][question] === i);
    button.onclick = () => choose(question, i);
    it.append(button);
  });
  return it;
}

function choose(question, i) {
  answers[at][question] = i;
  localStorage.setItem(`${name} who`, who);
  localStorage.setItem(name, JSON.stringify(answers));
  ask();
}

function save() {
  const flat = answers.flatMap((of, pair) => Object.entries(of).map(([question, chosen]) => ({ pair, question, chosen })));
  const file = new Blob([JSON.stringify({ page: name, who, answers: flat }, null, 1)], { type: "application/json" });
  const link = made("a", { href: URL.createObjectURL(file), download: `answers-${Date.now()}.json` });
  link.click();
  URL.revokeObjectURL(link.href);
}

element("back").onclick = () => { at -= 1; show(); };
element("next").onclick = () => { at += 1; show(); };
element("save").onclick = save;
show();

// Starred samples as text: ids, or commands for a shell.

const FORMS = {
  ids: (which) => which.map((i) => DATA.ids[i] + "\n").join(""),
  again: (which) => which.map((i) => `python -m its_jax.sample --from=${place(i, coded(DATA.folders, i), "/spectrogram.png")} --workdir=again\n`).join(""),
  videos: (which) => which.map((i) => `python -m its_jax.video ${place(i, "", "")}\n`).join(""),
};

function place(i, folder, file) {
  return quoted(`${DATA.workdir}/${folder}${DATA.ids[i]}${file}`);
}

// For a POSIX shell.
function quoted(argument) {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : "'" + argument.replaceAll("'", "'\\''") + "'";
}

function showExport() {
  const which = starredHere();
  at("exportcount").textContent = which.length
    ? `${which.length} starred ${which.length === 1 ? "sample" : "samples"}`
    : "Nothing is starred yet: press S on a sample, or click its star.";
  at("text").value = FORMS[at("form").value](which);
  at("copied").textContent = "";
  at("download").download = at("form").value === "ids" ? "starred.txt" : `${at("form").value}.sh`;
  at("download").href = "data:text/plain;charset=utf-8," + encodeURIComponent(at("text").value);
}

async function copyExport() {
  at("text").select();
  try {
    await navigator.clipboard.writeText(at("text").value);
    at("copied").textContent = "Copied.";
  } catch {
    at("copied").textContent = document.execCommand("copy") ? "Copied." : "Press Ctrl+C to copy what is selected.";
  }
}

at("export").addEventListener("click", () => { showExport(); at("exported").showModal(); });
at("form").addEventListener("change", showExport);
at("copy").addEventListener("click", copyExport);
at("close").addEventListener("click", () => at("exported").close());

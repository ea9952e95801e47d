use residuum::predict::Predictor;
use residuum::quantize::{Quantizer};
use std::time::Instant;
fn main(){
 let a:Vec<String>=std::env::args().collect();
 let threads:usize=a.get(2).map_or(1,|s|s.parse().unwrap());
 let pool=rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
 let sz:std::collections::HashMap<String,(usize,f64,f64)>=std::fs::read_to_string("/tmp/sz3.txt").unwrap().lines().map(|l|{let w:Vec<&str>=l.split(' ').collect();let nd:usize=w[4].parse().unwrap();let sl:usize=w[11].parse().unwrap();
   (format!("{} {}",w[0],w[1]),(if sl>0{nd.min(sl)}else{nd},w[5].parse().unwrap(),w[6].parse().unwrap()))}).collect();
 let mut f:Vec<_>=std::fs::read_dir(&a[1]).unwrap().map(|e|e.unwrap().path()).filter(|p|p.extension().is_some_and(|e|e=="npy")).collect();f.sort();
 let mut tot=std::collections::BTreeMap::<String,(usize,usize)>::new();let (mut gc,mut gd,mut ng)=(0.0,0.0,0.0);
 for p in f{ let b=std::fs::read(&p).unwrap();let n=npyz::NpyFile::new(&b[..]).unwrap();let shape:Vec<usize>=n.shape().iter().map(|&x|x as usize).filter(|&x|x>1).collect();let d=n.into_vec::<f32>().unwrap();
  let (mut lo,mut hi)=(f64::MAX,f64::MIN);for &x in &d{if x.is_finite(){lo=lo.min(x as f64);hi=hi.max(x as f64)}}
  for rel in ["0.01","0.001","0.0001"]{ let eb=rel.parse::<f64>().unwrap()*(hi-lo);
   let base=(lo+(hi-lo)/2.0) as f32;
   let q=Quantizer::<f32>::new(eb,lo.abs().max(hi.abs()));
   let mut best=[9.0f64;6];let mut size=0;let mut desc=String::new();let mut psnr=0.0;
   for _ in 0..5{ pool.install(||{
    let t0=Instant::now();
    let pr=residuum::predict::choose::choose(&d,&shape,base,&q,Default::default());
    let t1=Instant::now();
    let c=pr.encode(&d,&shape,base,&q);
    let t2=Instant::now();
    let by=residuum::encode::huffman::cpu::encode(&c.codes);
    let t3=Instant::now();
    let codes=residuum::encode::huffman::cpu::decode(&by,d.len()).unwrap();
    let t4=Instant::now();
    let mut o=pr.decode(&codes,&shape,base,&q);
    c.outliers.apply(&mut o);
    let t5=Instant::now();
    assert_eq!(codes,c.codes);
    let mut s=0f64;let mut m=0f64;let mut nn=0;for (x,y) in d.iter().zip(&o){ if x.is_finite(){let e=(*x as f64-*y as f64).abs();m=m.max(e);s+=e*e;nn+=1;}}
    assert!(m<=eb,"{m} {eb}");
    psnr=20.0*((hi-lo)/(s/nn as f64).sqrt()).log10();
    let o=c.outliers.to_bytes::<f32>().len();
    size=by.len()+o;
    for (i,x) in [(t1-t0),(t2-t1),(t3-t2),(t4-t3),(t5-t4)].iter().enumerate(){best[i]=best[i].min(x.as_secs_f64())}
    desc=format!("{} outl {} ",pr.describe(),o);
   });}
   let mb=d.len() as f64*4e-6;
   let key=format!("{} {}",p.file_stem().unwrap().to_str().unwrap(),rel);
   let (s,sc,sd)=sz[&key];
   let e=tot.entry(rel.to_string()).or_default();e.0+=size;e.1+=s;
   let (c,dd)=(mb/(best[0]+best[1]+best[2]),mb/(best[3]+best[4]));
   if d.len()>250000{gc+=(c/sc).ln();gd+=(dd/sd).ln();ng+=1.0;}
   println!("{:<22} {rel:>6} {size:>8} {s:>8} {:.3} | {c:>5.0} {dd:>5.0} x{:.2} x{:.2} | choose {:.2} pred {:.2} huff {:.2} | unhuff {:.2} unpred {:.2} ns/v psnr {psnr:.2} {desc}",&key[..key.len().min(20)],size as f64/s as f64,c/sc,dd/sd,best[0]*1e9/d.len() as f64,best[1]*1e9/d.len() as f64,best[2]*1e9/d.len() as f64,best[3]*1e9/d.len() as f64,best[4]*1e9/d.len() as f64);
  }}
 for (k,v) in tot{println!("{k}: {:.4}",v.0 as f64/v.1 as f64);}
 println!("speed x{:.2} x{:.2}",(gc/ng as f64).exp(),(gd/ng as f64).exp());
}

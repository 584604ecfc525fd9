# The annotations that workerd's schema uses, declared: Cap'n Proto's own file is part of its C++
# package, which Kythera does not need.
@0xbdf87d7bb8304e81;
annotation namespace(file) :Text;
annotation allowCancellation(file) :Void;
